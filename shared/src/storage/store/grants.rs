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
        Abandoned, Grants, HeldGrant, HeldToken, IdleGrant, NewAccessToken, NewTokens,
        RefreshStart, StoreError, cipher::Place,
    },
    time::Timestamp,
};

#[async_trait]
impl Grants for Database {
    async fn held_grant(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        client_id: &str,
        scope_set: &str,
    ) -> Result<Option<HeldGrant>, StoreError> {
        let row = sqlx::query(
            "select sessions.state, sessions.version as session_version,
                    coalesce(grants.version, 0) as version,
                    grants.refresh_token is not null as renewable,
                    grants.not_before, grants.refused_at,
                    coalesce(grants.presented, 0) as presented,
                    coalesce(grants.loops, 0) as loops, access_tokens.access_token,
                    access_tokens.obtained_at, access_tokens.expires_at,
                    access_tokens.refresh_at
             from sessions
                  left join grants on grants.session_id = sessions.id and grants.api = $5
                  left join access_tokens on access_tokens.session_id = grants.session_id
                       and access_tokens.api = grants.api and access_tokens.scope_set = $6
             where sessions.id = $1 and sessions.tenant = $2 and sessions.subject = $3
               and sessions.client_id = $4",
        )
        .bind(session_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(client_id)
        .bind(api)
        .bind(scope_set)
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: Option<Vec<u8>> = row.try_get("access_token")?;
        let token = match sealed {
            None => None,
            Some(sealed) => {
                let place = access_token_place(session_id, api, scope_set, owner);
                Some(HeldToken {
                    access_token: AccessToken::new(text(self.open(place, &sealed)?)?),
                    obtained_at: row.try_get("obtained_at")?,
                    expires_at: row.try_get("expires_at")?,
                    refresh_at: row.try_get("refresh_at")?,
                })
            }
        };
        Ok(Some(HeldGrant {
            state: word(row.try_get("state")?)?,
            session_version: row.try_get("session_version")?,
            version: row.try_get("version")?,
            renewable: row.try_get("renewable")?,
            not_before: row.try_get("not_before")?,
            refused_at: row.try_get("refused_at")?,
            presented: row.try_get::<i32, _>("presented")?.unsigned_abs(),
            loops: row.try_get::<i32, _>("loops")?.unsigned_abs(),
            token,
        }))
    }

    async fn begin_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        version: i64,
        lease: Duration,
    ) -> Result<Option<RefreshStart>, StoreError> {
        let refresher = Uuid::now_v7();
        let row = sqlx::query(concat!(
            "update grants set refresher = $6, presented = presented + 1, refresh_until = ",
            after!("$7"),
            " where session_id = $1 and api = $2 and version = $5 and refresh_token is not null
                and exists (select 1 from sessions
                            where id = $1 and tenant = $3 and subject = $4 and state = 'active')
                and (refresh_until is null or refresh_until <= ",
            now!(),
            ") returning refresh_token"
        ))
        .bind(session_id)
        .bind(api)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .bind(version)
        .bind(refresher)
        .bind(micros(lease))
        .fetch_optional(&self.writer)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sealed: Vec<u8> = row.try_get("refresh_token")?;
        let refresh_token = self.open(refresh_token_place(session_id, api, owner), &sealed)?;
        Ok(Some(RefreshStart { refresher, refresh_token: RefreshToken::new(text(refresh_token)?) }))
    }

    async fn finish_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        version: i64,
        access_token: &NewAccessToken,
        refresh_token: Option<&RefreshToken>,
    ) -> Result<bool, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        // The session's row first, here as everywhere: so no two transactions wait for each other.
        let active = sqlx::query(concat!(
            "update sessions set refreshed_at = ",
            now!(),
            " where id = $1 and tenant = $2 and subject = $3 and state = 'active'"
        ))
        .bind(session_id)
        .bind(&owner.tenant)
        .bind(&owner.subject)
        .execute(&mut *transaction)
        .await?;
        let sealed = refresh_token.map(|token| {
            self.seal(refresh_token_place(session_id, api, owner), token.expose().as_bytes())
        });
        // Fenced by the version alone: a late answer, after the lease, is still the newest token.
        let written = sqlx::query(concat!(
            "update grants set refresh_token = coalesce($4, refresh_token), version = version + 1,
                    presented = 0, refresher = null, refresh_until = null, not_before = null,
                    refused_at = null, loops = 0, refreshed_at = ",
            now!(),
            " where session_id = $1 and api = $2 and version = $3"
        ))
        .bind(session_id)
        .bind(api)
        .bind(version)
        .bind(sealed)
        .execute(&mut *transaction)
        .await?;
        if active.rows_affected() == 0 || written.rows_affected() == 0 {
            return Ok(false);
        }
        self.put_access_token(&mut transaction, session_id, api, owner, access_token).await?;
        let scope_set = &access_token.scope_set;
        self.tell_of_session(&mut transaction, session_id, EventKind::Refreshed, scope_set).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn abandon_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        version: i64,
        refresher: Uuid,
        abandoned: Abandoned,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update grants set refresher = null, refresh_until = null,
                    presented = presented - $5, refused_at = coalesce($6, refused_at),
                    not_before = $7, loops = loops + $8
             where session_id = $1 and api = $2 and version = $3 and refresher = $4",
        )
        .bind(session_id)
        .bind(api)
        .bind(version)
        .bind(refresher)
        .bind(i32::from(!abandoned.unanswered))
        .bind(abandoned.refused_at)
        .bind(abandoned.not_before)
        .bind(i32::from(abandoned.looped))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn end_grant(
        &self,
        session_id: Uuid,
        api: &str,
        version: i64,
        keep_access_tokens: bool,
    ) -> Result<bool, StoreError> {
        let mut transaction = begin(&self.writer).await?;
        sqlx::query(concat!("select 1 from sessions where id = $1", locked!("update")))
            .bind(session_id)
            .fetch_optional(&mut *transaction)
            .await?;
        let ended = sqlx::query(
            "update grants set refresh_token = null, refresher = null, refresh_until = null,
                    dead = true, version = version + 1
             where session_id = $1 and api = $2 and version = $3 and refresh_token is not null",
        )
        .bind(session_id)
        .bind(api)
        .bind(version)
        .execute(&mut *transaction)
        .await?;
        if ended.rows_affected() == 0 {
            return Ok(false);
        }
        if !keep_access_tokens {
            sqlx::query("delete from access_tokens where session_id = $1 and api = $2")
                .bind(session_id)
                .bind(api)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query(
            "update sessions set state = 'interaction_required'
             where id = $1 and state = 'active'
               and not exists (select 1 from grants
                               where session_id = $1 and refresh_token is not null)
               and not exists (select 1 from access_tokens where session_id = $1)",
        )
        .bind(session_id)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn claim_early_refresh(
        &self,
        session_id: Uuid,
        api: &str,
        scope_set: &str,
        refresh_at: Timestamp,
        next: Timestamp,
    ) -> Result<bool, StoreError> {
        let claimed = sqlx::query(
            "update access_tokens set refresh_at = $5
             where session_id = $1 and api = $2 and scope_set = $3 and refresh_at = $4",
        )
        .bind(session_id)
        .bind(api)
        .bind(scope_set)
        .bind(refresh_at)
        .bind(next)
        .execute(&self.writer)
        .await?;
        Ok(claimed.rows_affected() == 1)
    }

    async fn idle_grants(
        &self,
        client_id: &str,
        unused: Duration,
        limit: u32,
    ) -> Result<Vec<IdleGrant>, StoreError> {
        let rows = sqlx::query(concat!(
            "select grants.session_id, grants.api, grants.version, sessions.tenant,
                    sessions.subject,
                    (select scope_set from access_tokens
                     where access_tokens.session_id = grants.session_id
                       and access_tokens.api = grants.api
                     order by obtained_at desc limit 1) as scope_set
             from grants join sessions on sessions.id = grants.session_id
             where sessions.client_id = $1 and sessions.state = 'active'
               and grants.refresh_token is not null and grants.refreshed_at <= ",
            after!("-$2"),
            " and (grants.keep_alive_at is null or grants.keep_alive_at <= ",
            now!(),
            // One that runs asks for itself.
            ") and grants.session_id in (
                select session_id from jobs where status in ('pending', 'waiting', 'suspended'))
             order by grants.refreshed_at limit $3"
        ))
        .bind(client_id)
        .bind(micros(unused))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(IdleGrant {
                    session_id: row.try_get("session_id")?,
                    api: row.try_get("api")?,
                    owner: Principal {
                        tenant: row.try_get("tenant")?,
                        subject: row.try_get("subject")?,
                    },
                    version: row.try_get("version")?,
                    scope_set: row.try_get("scope_set")?,
                })
            })
            .collect()
    }

    async fn claim_idle_grant(
        &self,
        grant: &IdleGrant,
        length: Duration,
    ) -> Result<bool, StoreError> {
        let claimed = sqlx::query(concat!(
            "update grants set keep_alive_at = ",
            after!("$4"),
            " where session_id = $1 and api = $2 and version = $3
                and (keep_alive_at is null or keep_alive_at <= ",
            now!(),
            ")"
        ))
        .bind(grant.session_id)
        .bind(&grant.api)
        .bind(grant.version)
        .bind(micros(length))
        .execute(&self.writer)
        .await?;
        Ok(claimed.rows_affected() == 1)
    }
}

impl Database {
    /// Writes the tokens of one grant in place of whatever the session has for that API.
    pub(super) async fn put_tokens(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
        owner: &Principal,
        tokens: &NewTokens,
    ) -> Result<(), StoreError> {
        let place = refresh_token_place(session_id, &tokens.api, owner);
        let sealed =
            tokens.refresh_token.as_ref().map(|token| self.seal(place, token.expose().as_bytes()));
        sqlx::query(concat!(
            "insert into grants (session_id, api, version, refresh_token, refreshed_at)
             values ($1, $2, 1, $3, ",
            now!(),
            ") on conflict (session_id, api) do update
             set refresh_token = excluded.refresh_token, version = grants.version + 1,
                 refreshed_at = excluded.refreshed_at, refresher = null, refresh_until = null,
                 presented = 0, not_before = null, refused_at = null, loops = 0, dead = false"
        ))
        .bind(session_id)
        .bind(&tokens.api)
        .bind(sealed)
        .execute(&mut **transaction)
        .await?;
        // Tokens of the grant before may lack what the user has just proved, e.g. a second factor.
        sqlx::query("delete from access_tokens where session_id = $1 and api = $2")
            .bind(session_id)
            .bind(&tokens.api)
            .execute(&mut **transaction)
            .await?;
        self.put_access_token(transaction, session_id, &tokens.api, owner, &tokens.access_token)
            .await
    }

    async fn put_access_token(
        &self,
        transaction: &mut Transaction<'_, Db>,
        session_id: Uuid,
        api: &str,
        owner: &Principal,
        token: &NewAccessToken,
    ) -> Result<(), StoreError> {
        let place = access_token_place(session_id, api, &token.scope_set, owner);
        sqlx::query(
            "insert into access_tokens (session_id, api, scope_set, access_token, obtained_at,
                                        expires_at, refresh_at)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (session_id, api, scope_set) do update
             set access_token = excluded.access_token, obtained_at = excluded.obtained_at,
                 expires_at = excluded.expires_at, refresh_at = excluded.refresh_at",
        )
        .bind(session_id)
        .bind(api)
        .bind(&token.scope_set)
        .bind(self.seal(place, token.access_token.expose().as_bytes()))
        .bind(token.obtained_at)
        .bind(token.expires_at)
        .bind(token.refresh_at)
        .execute(&mut **transaction)
        .await?;
        Ok(())
    }
}

pub(super) fn refresh_token_place<'a>(
    row: Uuid,
    api: &'a str,
    principal: &'a Principal,
) -> Place<'a> {
    Place { table: "grants", column: "refresh_token", row, parts: [api, ""], principal }
}

/// The scopes too: two tokens of one session do not open in each other's place.
pub(super) fn access_token_place<'a>(
    row: Uuid,
    api: &'a str,
    scope_set: &'a str,
    principal: &'a Principal,
) -> Place<'a> {
    let parts = [api, scope_set];
    Place { table: "access_tokens", column: "access_token", row, parts, principal }
}

fn text(bytes: Vec<u8>) -> Result<String, sqlx::Error> {
    String::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}
