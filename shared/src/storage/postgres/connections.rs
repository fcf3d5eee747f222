//! Connections to the server, or to a pooler that gives each transaction another one.

use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Execute, Executor, Pool, Postgres, SqlStr, Transaction,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

/// A pool, as an executor.
///
/// A statement with parameters takes two trips to the server: it is prepared under a name, and executed
/// by that name. Behind a pooler in transaction mode the second trip may end at another connection of
/// the server. So there every statement has a transaction of its own.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pool: Pool<Postgres>,
    /// `prepared_statements`: what is prepared on a connection is still there after a transaction.
    keep_statements: bool,
}

impl Connections {
    pub(super) fn new(pool: Pool<Postgres>, keep_statements: bool) -> Self {
        Self { pool, keep_statements }
    }

    /// The connections themselves, for what needs one for longer than a transaction.
    pub(super) fn pool(&self) -> &Pool<Postgres> {
        &self.pool
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        if self.keep_statements {
            self.pool.begin().await
        } else {
            // Whoever had the server's connection before may have used the same names.
            self.pool.begin_with("begin; deallocate all").await
        }
    }
}

impl<'c> Executor<'c> for &'c Connections {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.keep_statements {
            return self.pool.fetch_many(query);
        }
        let results = async move {
            let mut transaction = self.begin().await?;
            let results: Vec<_> = transaction.fetch_many(query).try_collect().await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(stream::iter(results.into_iter().map(Ok)))
        };
        stream::once(results).try_flatten().boxed()
    }

    fn fetch_optional<'e, 'q, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        'q: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.keep_statements {
            return self.pool.fetch_optional(query);
        }
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let row = transaction.fetch_optional(query).await?;
            transaction.commit().await?;
            Ok(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.pool.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.pool.describe(sql)
    }
}
