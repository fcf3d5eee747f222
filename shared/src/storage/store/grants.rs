use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Row, Transaction};
use uuid::Uuid;

use super::{
    super::{Db, begin},
    Database, micros, word,
};
use crate::{
    identity::{AccessToken, Principal, RefreshToken},
    jobs::EventKind,
    storage::{
        Abandoned, Grants, HeldGrant, HeldToken, NewAccessToken, RefreshStart, StoreError,
        cipher::Place,
    },
};

#[async_trait]
impl Grants for Database {
    async fn held_grant(
        &self,
        session_id: Uuid,
        owner: &Principal,
        client_id: &str,
        scope_set: &str,
    ) -> Result<Option<HeldGrant>, StoreError> {
        let row = sqlx::query(
            "select sessions.state, sessions.version, sessions.not_before, sessions.refused_at,
                    sessions.presented, access_tokens.access_token, access_tokens.obtained_at,
                    access_tokens.expires_at
             from sessions left join access_tokens
                  on access_tokens.session_id = sessions.id and access_tokens.scope_set = $5
             where sessions.id = $1 and sessions.tenant = $2 and sessions.subject = $3
               and sessions.client_id = $4",
        )
        .bind(session_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(client_id)
        .bind(scope_set)
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: Option<Vec<u8>> = row.try_get("access_token")?;
        let token = match sealed {
            None => None,
            Some(sealed) => {
                let place = access_token_place(session_id, owner);
                Some(HeldToken {
                    access_token: AccessToken::new(text(self.open(place, &sealed)?)?),
                    obtained_at: row.try_get("obtained_at")?,
                    expires_at: row.try_get("expires_at")?,
                })
            }
        };
        Ok(Some(HeldGrant {
            state: word(row.try_get("state")?)?,
            version: row.try_get("version")?,
            not_before: row.try_get("not_before")?,
            refused_at: row.try_get("refused_at")?,
            presented: row.try_get::<i32, _>("presented")?.unsigned_abs(),
            token,
        }))
    }

    async fn begin_refresh(
        &self,
        session_id: Uuid,
        owner: &Principal,
        version: i64,
        lease: Duration,
    ) -> Result<Option<RefreshStart>, StoreError> {
        let refresher = Uuid::now_v7();
        let row = sqlx::query(concat!(
            "update sessions set refresher = $5, presented = presented + 1, refresh_until = ",
            after!("$6"),
            " where id = $1 and tenant = $2 and subject = $3 and version = $4 and state = 'active'
                and (refresh_until is null or refresh_until <= ",
            now!(),
            ") returning refresh_token"
        ))
        .bind(session_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(version)
        .bind(refresher)
        .bind(micros(lease))
        .fetch_optional(&self.writer)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: Vec<u8> = row.try_get("refresh_token")?;
        let refresh_token = self.open(refresh_token_place(session_id, owner), &sealed)?;
        Ok(Some(RefreshStart { refresher, refresh_token: RefreshToken::new(text(refresh_token)?) }))
    }

    async fn finish_refresh(
        &self,
        session_id: Uuid,
        owner: &Principal,
        version: i64,
        access_token: &NewAccessToken,
        refresh_token: Option<&RefreshToken>,
    ) -> Result<bool, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let sealed = refresh_token.map(|token| {
            self.seal(refresh_token_place(session_id, owner), token.expose().as_bytes())
        });
        // Fenced by the version alone: a late answer, after the lease, is still the newest token.
        let written = sqlx::query(concat!(
            "update sessions set refresh_token = coalesce($5, refresh_token), version = version + 1,
                    presented = 0, refresher = null, refresh_until = null, not_before = null,
                    refused_at = null, refreshed_at = ",
            now!(),
            " where id = $1 and tenant = $2 and subject = $3 and version = $4 and state = 'active'"
        ))
        .bind(session_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(version)
        .bind(sealed)
        .execute(&mut *transaction)
        .await?;
        if written.rows_affected() == 0 {
            return Ok(false);
        }
        self.put_access_token(&mut transaction, session_id, owner, access_token).await?;
        let scope_set = &access_token.scope_set;
        self.tell_of_session(&mut transaction, session_id, EventKind::Refreshed, scope_set).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn abandon_refresh(
        &self,
        session_id: Uuid,
        version: i64,
        refresher: Uuid,
        abandoned: Abandoned,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update sessions set refresher = null, refresh_until = null,
                    presented = presented - $4, refused_at = coalesce($5, refused_at),
                    not_before = $6
             where id = $1 and version = $2 and refresher = $3",
        )
        .bind(session_id)
        .bind(version)
        .bind(refresher)
        .bind(i32::from(!abandoned.unanswered))
        .bind(abandoned.refused_at)
        .bind(abandoned.not_before)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn end_grant(&self, session_id: Uuid, version: i64) -> Result<bool, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        let ended = sqlx::query(
            "update sessions set state = 'interaction_required', refresh_token = null,
                    refresher = null, refresh_until = null, version = version + 1
             where id = $1 and version = $2 and state = 'active'",
        )
        .bind(session_id)
        .bind(version)
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("delete from access_tokens where session_id = $1")
            .bind(session_id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }
}

impl Database {
    pub(super) async fn put_access_token(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
        owner: &Principal,
        token: &NewAccessToken,
    ) -> Result<(), StoreError> {
        let place = access_token_place(session_id, owner);
        sqlx::query(
            "insert into access_tokens (session_id, scope_set, access_token, obtained_at, expires_at)
             values ($1, $2, $3, $4, $5)
             on conflict (session_id, scope_set) do update
             set access_token = excluded.access_token, obtained_at = excluded.obtained_at,
                 expires_at = excluded.expires_at",
        )
        .bind(session_id)
        .bind(&token.scope_set)
        .bind(self.seal(place, token.access_token.expose().as_bytes()))
        .bind(token.obtained_at)
        .bind(token.expires_at)
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }
}

pub(super) fn refresh_token_place(session_id: Uuid, principal: &Principal) -> Place<'_> {
    Place { table: "sessions", column: "refresh_token", row: session_id, principal }
}

fn access_token_place(session_id: Uuid, principal: &Principal) -> Place<'_> {
    Place { table: "access_tokens", column: "access_token", row: session_id, principal }
}

fn text(bytes: Vec<u8>) -> Result<String, sqlx::Error> {
    String::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}
