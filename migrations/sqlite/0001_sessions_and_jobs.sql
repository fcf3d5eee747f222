-- Times are microseconds since 1970 (UTC), ids are the 16 bytes of a UUID.

-- A session: the stored right to act for one user while that user is away.
create table sessions (
    id blob primary key,
    -- The principal: Entra's `tid` and `oid`.
    tenant text not null,
    subject text not null,
    -- Errand's own client id, to which the refresh token is bound.
    client_id text not null,
    session_key text not null,
    -- SHA-256 of the user's token that the key was allocated for; null for a key of the caller's own.
    allocated_for blob,
    -- SHA-256 of the user's token that the present grant was exchanged for.
    assertion_hash blob not null,
    state text not null check (state in ('active', 'interaction_required', 'stopped')),
    -- Grows with every change of the grant: the fence of all refreshes.
    version integer not null,
    -- encrypted; erased when the session is no longer active
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
    created_at integer not null,
    refreshed_at integer not null,
    unique (tenant, subject, client_id, session_key),
    check ((refresher is null) = (refresh_until is null)),
    check ((state = 'active') = (refresh_token is not null))
) strict;

create unique index sessions_allocated on sessions (tenant, subject, client_id, allocated_for)
    where allocated_for is not null;

-- Access tokens of a session, one per requested set of scopes.
create table access_tokens (
    session_id blob not null references sessions (id) on delete cascade,
    scope_set text not null,
    -- encrypted
    access_token blob not null,
    obtained_at integer not null,
    expires_at integer not null,
    primary key (session_id, scope_set)
) strict;

-- A job, and its place in the queue.
create table jobs (
    id blob primary key,
    tenant text not null,
    subject text not null,
    -- Null if the document names no API.
    session_id blob references sessions (id),
    status text not null check (status in
        ('pending', 'running', 'waiting', 'suspended', 'completed', 'faulted', 'cancelled')),
    -- Grows with every claim: the fence of everything a worker writes.
    lease_id integer not null default 0,
    lease_until integer,
    worker_id blob,
    -- When something happens next; a suspended job's deadline. Null: never again.
    due_at integer,
    attempts integer not null default 0,
    throttles integer not null default 0,
    -- Leases that were lost: how often a worker died with this job in hand.
    interruptions integer not null default 0,
    namespace text not null,
    name text not null,
    version text not null,
    -- encrypted
    definition blob not null,
    -- encrypted
    input blob not null,
    -- encrypted; null before the first step
    checkpoint blob,
    -- encrypted
    output blob,
    -- encrypted
    error blob,
    -- encrypted
    suspension blob,
    -- JSON: current tasks, tasks done, tasks in all
    progress text not null,
    -- JSON object
    tags text not null,
    -- JSON array
    warnings text not null,
    -- W3C Trace Context of the submission
    traceparent text not null,
    revision integer not null default 1,
    created_at integer not null,
    started_at integer,
    updated_at integer not null,
    finished_at integer,
    deadline_at integer not null,
    check ((status = 'running') = (lease_until is not null)),
    check ((status in ('completed', 'faulted', 'cancelled')) = (finished_at is not null)),
    -- Nothing unfinished is without something that wakes it.
    check (status in ('completed', 'faulted', 'cancelled', 'running') or due_at is not null)
) strict;

-- The queue. A suspended job waits here for its deadline.
create index jobs_due on jobs (due_at) where status in ('pending', 'waiting', 'suspended');
-- Whose lease is lost.
create index jobs_running on jobs (worker_id) where status = 'running';
-- Whom a resume wakes.
create index jobs_suspended on jobs (session_id) where status = 'suspended';

-- What an `Idempotency-Key` was used for.
create table idempotency_keys (
    tenant text not null,
    subject text not null,
    -- SHA-256 of endpoint and key
    key_hash blob not null,
    -- Keyed hash of the body.
    body_fingerprint blob not null,
    job_id blob not null references jobs (id) on delete cascade,
    created_at integer not null,
    primary key (tenant, subject, key_hash)
) strict;
