//! A bare apalis-postgres, set as its first example is (batches of 100, no second lock), with the places
//! that an Errand worker has.
//!
//!   apalis-peer push COUNT    adds jobs that do nothing
//!   apalis-peer drain         runs them until it is ended

use std::env;

use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage};
use futures::stream;

const BATCH: usize = 100;
const PLACES: usize = 64;

async fn answer(_: u64) -> Result<(), BoxDynError> {
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let pool = PgPool::connect(&env::var("DATABASE_URL")?).await?;
    PostgresStorage::setup(&pool).await?;
    let config = Config::default().queue("bench").batch_size(BATCH).lock_tasks(false);
    let mut backend = PostgresStorage::new(&pool).with_config(config);
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["push", count] => {
            let jobs = (0..count.parse()?).map(|job: u64| TaskBuilder::new(job).build());
            backend.push_all(&mut stream::iter(jobs)).await?;
        }
        ["drain"] => {
            let worker = WorkerBuilder::new("bench")
                .backend(backend)
                .concurrency(PLACES)
                .parallelize(tokio::spawn)
                .build(answer);
            worker.run().await?;
        }
        _ => return Err("push COUNT, or drain".into()),
    }
    Ok(())
}
