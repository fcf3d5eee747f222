-- A session: the stored right to act for one user while that user is away.
create table sessions (
    id uuid primary key,
    -- The principal: Entra's `tid` and `oid`.
    tenant text not null,
    subject text not null,
    -- Errand's own client id, to which the refresh token is bound.
    client_id text not null,
    session_key text not null,
    -- SHA-256 of the user's token that the key was allocated for; null for a key of the caller's own.
    allocated_for bytea,
    -- SHA-256 of the user's token that the present grant was exchanged for.
    assertion_hash bytea not null,
    state text not null check (state in ('active', 'interaction_required', 'stopped')),
    -- Grows with every change of the grant: the fence of all refreshes.
    version bigint not null,
    -- encrypted; erased when the session is no longer active
    refresh_token bytea,
    -- The lease of the refresh under way, and until when it holds.
    refresher uuid,
    refresh_until timestamptz,
    -- How often the present refresh token was sent without an answer.
    presented integer not null default 0,
    -- No token request before this: the provider or an earlier failure asked to wait.
    not_before timestamptz,
    -- When the provider refused the refresh token without saying that it is dead.
    refused_at timestamptz,
    created_at timestamptz not null,
    refreshed_at timestamptz not null,
    unique (tenant, subject, client_id, session_key),
    check ((refresher is null) = (refresh_until is null)),
    check ((state = 'active') = (refresh_token is not null))
);

create unique index sessions_allocated on sessions (tenant, subject, client_id, allocated_for)
    where allocated_for is not null;

-- Access tokens of a session, one per requested set of scopes.
create table access_tokens (
    session_id uuid not null references sessions (id) on delete cascade,
    scope_set text not null,
    -- encrypted
    access_token bytea not null,
    obtained_at timestamptz not null,
    expires_at timestamptz not null,
    primary key (session_id, scope_set)
);

-- A job, and its place in the queue.
create table jobs (
    id uuid primary key,
    tenant text not null,
    subject text not null,
    -- Null if the document names no API.
    session_id uuid references sessions (id),
    status text not null check (status in
        ('pending', 'running', 'waiting', 'suspended', 'completed', 'faulted', 'cancelled')),
    -- Grows with every claim: the fence of everything a worker writes.
    lease_id bigint not null default 0,
    -- In no index, so that renewing is a HOT update.
    lease_until timestamptz,
    worker_id uuid,
    -- When something happens next; a suspended job's deadline. Null: never again.
    due_at timestamptz,
    attempts integer not null default 0,
    throttles integer not null default 0,
    -- Leases that were lost: how often a worker died with this job in hand.
    interruptions integer not null default 0,
    namespace text not null,
    name text not null,
    version text not null,
    -- encrypted
    definition bytea not null,
    -- encrypted
    input bytea not null,
    -- encrypted; null before the first step
    checkpoint bytea,
    -- encrypted
    output bytea,
    -- encrypted
    error bytea,
    -- encrypted
    suspension bytea,
    -- JSON: current tasks, tasks done, tasks in all
    progress text not null,
    -- JSON object
    tags text not null,
    -- JSON array
    warnings text not null,
    -- W3C Trace Context of the submission
    traceparent text not null,
    revision bigint not null default 1,
    created_at timestamptz not null,
    started_at timestamptz,
    updated_at timestamptz not null,
    finished_at timestamptz,
    deadline_at timestamptz not null,
    check ((status = 'running') = (lease_until is not null)),
    check ((status in ('completed', 'faulted', 'cancelled')) = (finished_at is not null)),
    -- Nothing unfinished is without something that wakes it.
    check (status in ('completed', 'faulted', 'cancelled', 'running') or due_at is not null)
)
-- Room for HOT updates: a job's row is written several times in its life.
with (fillfactor = 70);

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
    key_hash bytea not null,
    -- Keyed hash of the body.
    body_fingerprint bytea not null,
    job_id uuid not null references jobs (id) on delete cascade,
    created_at timestamptz not null,
    primary key (tenant, subject, key_hash)
);
