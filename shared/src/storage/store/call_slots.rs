use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::{Database, micros};
use crate::storage::{CallSlot, CallSlots, StoreError};

#[async_trait]
impl CallSlots for Database {
    async fn make_call_slots(&self, api: &str, limit: u32) -> Result<(), StoreError> {
        sqlx::query(
            "with recursive slots (slot) as (
                select 1 union all select slot + 1 from slots where slot < $2)
             insert into call_slots (api, slot) select $1, slot from slots where true
             on conflict do nothing",
        )
        .bind(api)
        .bind(i64::from(limit))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn take_call_slot(
        &self,
        api: &str,
        limit: u32,
        length: Duration,
    ) -> Result<Option<CallSlot>, StoreError> {
        let holder = Uuid::new_v4();
        // Whoever comes at the same moment does not wait for this one's slot, but takes the next.
        let row = sqlx::query(concat!(
            "update call_slots set holder = $3, held_until = ",
            after!("$4"),
            " where api = $1 and slot = (
                select slot from call_slots
                where api = $1 and slot <= $2 and (held_until is null or held_until <= ",
            now!(),
            ") order by slot limit 1",
            locked!("update skip locked"),
            ") returning slot"
        ))
        .bind(api)
        .bind(i64::from(limit))
        .bind(holder)
        .bind(micros(length))
        .fetch_optional(&self.writer)
        .await?;
        let slot = row.map(|row| row.try_get("slot")).transpose()?;
        Ok(slot.map(|slot| CallSlot { api: api.to_owned(), slot, holder }))
    }

    async fn keep_call_slot(&self, slot: &CallSlot, length: Duration) -> Result<bool, StoreError> {
        let kept = sqlx::query(concat!(
            "update call_slots set held_until = ",
            after!("$4"),
            " where api = $1 and slot = $2 and holder = $3"
        ))
        .bind(&slot.api)
        .bind(slot.slot)
        .bind(slot.holder)
        .bind(micros(length))
        .execute(&self.writer)
        .await?;
        Ok(kept.rows_affected() == 1)
    }

    async fn return_call_slot(&self, slot: &CallSlot) -> Result<(), StoreError> {
        sqlx::query(
            "update call_slots set holder = null, held_until = null
             where api = $1 and slot = $2 and holder = $3",
        )
        .bind(&slot.api)
        .bind(slot.slot)
        .bind(slot.holder)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}
