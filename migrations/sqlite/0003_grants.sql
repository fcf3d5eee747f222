-- A session can hold several refresh tokens: providers other than Entra bind each to one API.

-- SQLite changes no table's checks: `sessions` is made anew, while the jobs that refer to it wait.
pragma defer_foreign_keys = on;
create table former_sessions as select * from sessions;
create table former_access_tokens as select * from access_tokens;
create table former_session_events as select * from session_events;
drop table access_tokens;
-- With their sessions go the rows of `session_events`, which are put back below.
drop table sessions;

-- A session: the stored right to act for one user while that user is away.
create table sessions (
    id blob primary key,
    -- The principal: Entra's `tid` and `oid`, elsewhere `iss` and `sub`.
    tenant text not null,
    subject text not null,
    -- Errand's own client id, to which refresh tokens are bound.
    client_id text not null,
    session_key text not null,
    -- SHA-256 of the user's token that the key was allocated for; null for a key of the caller's own.
    allocated_for blob,
    -- SHA-256 of the user's token that was exchanged last.
    assertion_hash blob not null,
    state text not null check (state in ('active', 'interaction_required', 'stopped')),
    -- Grows when the user acts: the fence of stop and resume.
    version integer not null,
    created_at integer not null,
    refreshed_at integer not null,
    unique (tenant, subject, client_id, session_key)
) strict;

create unique index sessions_allocated on sessions (tenant, subject, client_id, allocated_for)
    where allocated_for is not null;

insert into sessions (id, tenant, subject, client_id, session_key, allocated_for, assertion_hash,
                      state, version, created_at, refreshed_at)
    select id, tenant, subject, client_id, session_key, allocated_for, assertion_hash,
           state, version, created_at, refreshed_at
    from former_sessions;

insert into session_events (session_id, sequence, at, kind, data)
    select session_id, sequence, at, kind, data from former_session_events;

create table grants (
    session_id blob not null references sessions (id) on delete cascade,
    -- Name of the API it is good for; empty: any, as at Entra.
    api text not null,
    -- Grows with every change of this grant: the fence of its refreshes.
    version integer not null,
    -- encrypted; null if the provider gave none, or once it is dead or its session stopped
    refresh_token blob,
    -- The lease of the refresh under way, and until when it holds.
    refresher blob,
    refresh_until integer,
    -- How often the present refresh token was sent without an answer.
    presented integer not null default 0,
    -- No token request before this: the provider or an earlier failure asked to wait.
    not_before integer,
    -- When the provider refused the refresh token without saying that it is dead.
    refused_at integer,
    primary key (session_id, api),
    check ((refresher is null) = (refresh_until is null))
) strict;

insert into grants (session_id, api, version, refresh_token, presented, not_before, refused_at)
    select id, '', version, refresh_token, presented, not_before, refused_at from former_sessions;

-- Access tokens of a session, one per requested set of scopes; each belongs to the grant that it was
-- got with.
create table access_tokens (
    session_id blob not null,
    api text not null,
    scope_set text not null,
    -- encrypted
    access_token blob not null,
    obtained_at integer not null,
    expires_at integer not null,
    primary key (session_id, api, scope_set),
    foreign key (session_id, api) references grants (session_id, api) on delete cascade
) strict;

insert into access_tokens (session_id, api, scope_set, access_token, obtained_at, expires_at)
    select session_id, '', scope_set, access_token, obtained_at, expires_at
    from former_access_tokens;

drop table former_access_tokens;
drop table former_session_events;
drop table former_sessions;
