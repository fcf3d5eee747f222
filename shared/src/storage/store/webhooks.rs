use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{
    super::{Db, begin},
    Database,
    audit::read_event,
    from_json, job_place, micros,
};
use crate::{
    identity::Principal,
    jobs::{DefinitionName, EventPosition, JobEvent},
    storage::{Delivery, StoreError, Tried, Webhooks},
    telemetry::chain,
};

#[async_trait]
impl Webhooks for Database {
    async fn claim_deliveries(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let rows = sqlx::query(concat!(
            "select webhook_deliveries.job_id, webhook_deliveries.sequence,
                    webhook_deliveries.attempts, jobs.tenant,
                    jobs.subject, jobs.callback, jobs.namespace, jobs.name, jobs.version, jobs.tags,
                    job_events.at, job_events.kind, job_events.data
             from webhook_deliveries
                  join job_events using (job_id, sequence)
                  join jobs on jobs.id = webhook_deliveries.job_id
             where webhook_deliveries.due_at <= ",
            now!(),
            " order by webhook_deliveries.due_at limit $1",
            locked!("update of webhook_deliveries skip locked")
        ))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            let (job_id, sequence): (Uuid, i64) =
                (row.try_get("job_id")?, row.try_get("sequence")?);
            sqlx::query(concat!(
                "update webhook_deliveries set attempts = attempts + 1, due_at = ",
                after!("$3"),
                " where job_id = $1 and sequence = $2"
            ))
            .bind(job_id)
            .bind(sequence)
            .bind(micros(lease))
            .execute(&mut *transaction)
            .await?;
            match self.read_delivery(job_id, sequence, row) {
                Ok(delivery) => claimed.push(delivery),
                // Tried again when the lease is over: the key ring may be mended by then.
                Err(error) => {
                    tracing::error!(job.id = %job_id, "a webhook cannot be read: {}", chain(&error));
                }
            }
        }
        transaction.commit().await?;
        Ok(claimed)
    }

    async fn finish_delivery(&self, delivery: &Delivery, tried: Tried) -> Result<(), StoreError> {
        let again_after = match tried {
            Tried::Failed { again_after } => Some(micros(again_after)),
            Tried::Delivered | Tried::GivenUp => None,
        };
        sqlx::query(concat!(
            "update webhook_deliveries set due_at = ",
            after!("$4"),
            ", delivered_at = case when $5 then ",
            now!(),
            " end
             where job_id = $1 and sequence = $2 and attempts = $3 and due_at is not null"
        ))
        .bind(delivery.job_id)
        .bind(delivery.sequence)
        .bind(i32::try_from(delivery.attempt).unwrap_or(i32::MAX))
        .bind(again_after)
        .bind(tried == Tried::Delivered)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}

impl Database {
    /// Reads a delivery as it was before the try that begins now.
    fn read_delivery(
        &self,
        job_id: Uuid,
        sequence: i64,
        row: &<Db as sqlx::Database>::Row,
    ) -> Result<Delivery, StoreError> {
        let owner = Principal { tenant: row.try_get("tenant")?, subject: row.try_get("subject")? };
        let callback: Vec<u8> = row.try_get("callback")?;
        let (_, event) = read_event(job_id, row)?;
        Ok(Delivery {
            job_id,
            sequence,
            attempt: row.try_get::<i32, _>("attempts")?.unsigned_abs() + 1,
            url: self.open_json(job_place(job_id, "callback", &owner), &callback)?,
            event: JobEvent { position: EventPosition { job: sequence, session: 0 }, ..event },
            definition: DefinitionName {
                namespace: row.try_get("namespace")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
            },
            tags: from_json("tags", job_id, row.try_get("tags")?)?,
        })
    }
}
