use std::{fs, path::Path};

use futures::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use uuid::Uuid;

use crate::pgbouncer::PgBouncer;

/// Which database a story is told on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// One file, in the story's folder. API and worker are two processes on it.
    Sqlite,
    /// A database of the story's own on the server of `TEST_DATABASE_URL`.
    Postgres,
    /// The same, which the processes reach through PgBouncer, in transaction mode.
    Pooled,
}

/// A database that nobody else uses.
#[derive(Debug)]
pub struct TestDatabase {
    kind: Database,
    /// Where it is, whatever is before it.
    pub url: String,
    pooler: Option<PgBouncer>,
}

impl TestDatabase {
    /// Makes an empty one.
    pub async fn create(kind: Database, folder: &Path) -> Self {
        let url = match kind {
            Database::Sqlite => format!("sqlite://{}/errand.db", folder.display()),
            Database::Postgres | Database::Pooled => {
                let name = format!("errand_test_{}", Uuid::now_v7().simple());
                execute_on_server(format!("create database {name}")).await;
                let (server, _) = server_and_database();
                format!("{server}/{name}")
            }
        };
        let pooler = match kind {
            Database::Sqlite | Database::Postgres => None,
            Database::Pooled => Some(PgBouncer::start(&server_and_database().0, folder).await),
        };
        let kind = if pooler.is_some() { Database::Postgres } else { kind };
        Self { kind, url, pooler }
    }

    /// `[database]` of a configuration.
    pub(crate) fn section(&self) -> String {
        let Some(pooler) = &self.pooler else { return format!("url = \"{}\"", self.url) };
        let (login, _) = self.url.rsplit_once('@').expect("the URL names a user");
        format!(
            "url = \"{login}@{}/{}\"\nlisten = false\nprepared_statements = false",
            pooler.address,
            self.name()
        )
    }

    /// As its server knows it; the file's path on SQLite.
    pub(crate) fn name(&self) -> &str {
        self.url.rsplit_once('/').map_or(&self.url, |(_, name)| name)
    }

    /// Counts the rows of a table.
    pub async fn count(&self, table: &str) -> i64 {
        let query = AssertSqlSafe(format!("select count(*) from {table}"));
        match self.kind {
            Database::Sqlite => {
                let mut connection =
                    SqliteConnection::connect(&self.url).await.expect("the file is a database");
                sqlx::query_scalar(query).fetch_one(&mut connection).await
            }
            Database::Postgres | Database::Pooled => {
                let mut connection = connect(&self.url).await;
                sqlx::query_scalar(query).fetch_one(&mut connection).await
            }
        }
        .expect("the table is there")
    }

    /// Changes rows behind the processes' backs, as time would; `postgres` is said in its own SQL.
    pub async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        match self.kind {
            Database::Sqlite => {
                let connected = SqliteConnection::connect(&self.url).await;
                let mut connection = connected.expect("the file is a database");
                sqlx::query(sqlite).execute(&mut connection).await.map(|_| ())
            }
            Database::Postgres | Database::Pooled => {
                sqlx::query(postgres).execute(&mut connect(&self.url).await).await.map(|_| ())
            }
        }
        .expect("the statement is right");
    }

    /// Ends every connection of others, as a restart of the server does. PostgreSQL only.
    pub async fn end_connections(&self) {
        let ended = sqlx::query(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .fetch_all(&mut connect(&self.url).await)
        .await
        .expect("a role may end its own connections");
        assert!(!ended.is_empty(), "nobody was connected");
    }

    /// Ends every connection, or says why not. PostgreSQL only.
    pub(crate) async fn terminate_backends(&self) -> Result<(), sqlx::Error> {
        let (server, database) = server_and_database();
        let mut connection = PgConnection::connect(&format!("{server}/{database}")).await?;
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
            .bind(self.name())
            .execute(&mut connection)
            .await?;
        connection.close().await
    }

    /// Whether anybody may connect; whoever is connected stays. PostgreSQL only.
    pub(crate) async fn allow_connections(&self, allow: bool) {
        let name = self.name();
        execute_on_server(format!("alter database {name} allow_connections {allow}")).await;
    }

    /// Keeps everybody else from writing until it is dropped. SQLite only.
    pub async fn lock(&self) -> SqliteConnection {
        let connected = SqliteConnection::connect(&self.url).await;
        let mut connection = connected.expect("the file is a database");
        let locked = sqlx::query("begin immediate").execute(&mut connection).await;
        locked.expect("no other transaction lasts for seconds");
        connection
    }

    /// Every byte of it, by file or table.
    pub async fn content(&self) -> Vec<(String, Vec<u8>)> {
        match self.kind {
            Database::Sqlite => {
                let path = self.url.strip_prefix("sqlite://").expect("made like this");
                let files = ["", "-wal"].map(|end| format!("{path}{end}"));
                files
                    .into_iter()
                    .filter_map(|file| Some((file.clone(), fs::read(file).ok()?)))
                    .collect()
            }
            Database::Postgres | Database::Pooled => {
                let mut connection = connect(&self.url).await;
                let tables: Vec<String> = sqlx::query_scalar(
                    "select tablename from pg_tables where schemaname = 'public'",
                )
                .fetch_all(&mut connection)
                .await
                .expect("the catalogue can be read");
                let mut content = Vec::new();
                for table in tables {
                    let rows = copy_out(&mut connection, &table).await;
                    content.push((table, rows.expect("a table can be copied")));
                }
                content
            }
        }
    }

    /// Removes it, whoever is connected. A story that failed leaves it behind: look into it.
    pub async fn remove(&self) {
        if self.kind == Database::Postgres {
            let (_, name) = self.url.rsplit_once('/').expect("made like this");
            execute_on_server(format!("drop database {name} with (force)")).await;
        }
    }
}

/// In the binary format, in which encrypted columns are the bytes that they are.
async fn copy_out(connection: &mut PgConnection, table: &str) -> Result<Vec<u8>, sqlx::Error> {
    let statement = format!("copy {table} to stdout (format binary)");
    let rows = connection.copy_out_raw(&statement).await?;
    rows.try_fold(Vec::new(), async |mut all, row| {
        all.extend_from_slice(&row);
        Ok(all)
    })
    .await
}

/// `postgres://user@host:port` and the database to connect to first.
fn server_and_database() -> (String, String) {
    let url = std::env::var("TEST_DATABASE_URL");
    let url = url.expect("TEST_DATABASE_URL is not set: run ./test");
    let (server, database) = url.rsplit_once('/').expect("the URL names a database");
    (server.to_owned(), database.to_owned())
}

async fn execute_on_server(statement: String) {
    let (server, database) = server_and_database();
    let mut connection = connect(&format!("{server}/{database}")).await;
    let done = sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await;
    done.expect("the role of TEST_DATABASE_URL may create and drop databases");
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("the server of TEST_DATABASE_URL answers")
}
