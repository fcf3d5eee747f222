use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;

use super::{Database, micros, word};
use crate::{
    storage::{GateReason, Gates, Passage, Probe, StoreError},
    time::Timestamp,
};

#[async_trait]
impl Gates for Database {
    async fn pass_gates(
        &self,
        client_id: &str,
        tenant: &str,
        api: &str,
        probe: Duration,
    ) -> Result<Passage, StoreError> {
        let rows = sqlx::query(concat!(
            "select api, reason, not_before, ",
            now!(),
            " as now from gates where client_id = $1 and tenant = $2 and api in ('', $3)
             order by not_before desc"
        ))
        .bind(client_id)
        .bind(tenant)
        .bind(api)
        .fetch_all(&self.reader)
        .await?;
        let mut probes = Vec::with_capacity(rows.len());
        // Those that are closed come first: nobody is the first through one and held by another.
        for row in &rows {
            let reason: GateReason = word(row.try_get("reason")?)?;
            let (not_before, now): (Timestamp, Timestamp) =
                (row.try_get("not_before")?, row.try_get("now")?);
            if not_before > now {
                return Ok(Passage::Held { reason, length: not_before.since(now) });
            }
            let gate: String = row.try_get("api")?;
            let taken = sqlx::query(concat!(
                "update gates set not_before = ",
                after!("$5"),
                " where client_id = $1 and tenant = $2 and api = $3 and not_before = $4
                 returning not_before"
            ))
            .bind(client_id)
            .bind(tenant)
            .bind(&gate)
            .bind(not_before)
            .bind(micros(probe))
            .fetch_optional(&self.writer)
            .await?;
            let Some(taken) = taken else {
                return Ok(Passage::Held { reason, length: probe });
            };
            probes.push(Probe { api: gate, until: taken.try_get("not_before")? });
        }
        Ok(Passage::Open(probes))
    }

    async fn close_gate(
        &self,
        client_id: &str,
        tenant: &str,
        api: &str,
        reason: GateReason,
        length: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(concat!(
            "insert into gates (client_id, tenant, api, reason, not_before)
             values ($1, $2, $3, $4, ",
            after!("$5"),
            ") on conflict (client_id, tenant, api) do update
             set reason = excluded.reason, not_before = excluded.not_before
             where excluded.not_before > gates.not_before"
        ))
        .bind(client_id)
        .bind(tenant)
        .bind(api)
        .bind(reason.as_str())
        .bind(micros(length))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn open_gate(
        &self,
        client_id: &str,
        tenant: &str,
        probe: &Probe,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "delete from gates
             where client_id = $1 and tenant = $2 and api = $3 and not_before = $4",
        )
        .bind(client_id)
        .bind(tenant)
        .bind(&probe.api)
        .bind(probe.until)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}
