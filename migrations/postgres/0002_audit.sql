-- What happened to a job, for its owner: written with the change it tells of.
create table job_events (
    job_id uuid not null references jobs (id) on delete cascade,
    -- The job's revision after the change.
    sequence bigint not null,
    at timestamptz not null,
    kind text not null,
    -- JSON object; no inputs, outputs, claims or tokens
    data text not null,
    primary key (job_id, sequence)
);

-- What happened to a session's grant, for the owners of its jobs.
create table session_events (
    session_id uuid not null references sessions (id) on delete cascade,
    -- The session's version after the change.
    sequence bigint not null,
    at timestamptz not null,
    kind text not null,
    -- JSON object; no claims or tokens
    data text not null,
    primary key (session_id, sequence)
);

-- What was called in the user's name; written with the record that follows the call.
create table job_calls (
    job_id uuid not null references jobs (id) on delete cascade,
    -- The job's revision after that record, and the call's number among those it brought.
    sequence bigint not null,
    ordinal integer not null,
    -- When it was sent.
    at timestamptz not null,
    duration_ms bigint not null,
    task text not null,
    api text not null,
    -- JSON array: what the token was asked for with
    scopes text not null,
    method text not null,
    -- encrypted; without the query
    path bytea not null,
    attempt integer not null,
    outcome text not null,
    -- Null without an answer.
    status integer,
    primary key (job_id, sequence, ordinal)
);

-- Where a job's submitter wants to be told of it: encrypted, and at which events (words).
alter table jobs
    add column callback bytea,
    add column callback_events text,
    add constraint jobs_callback check ((callback is null) = (callback_events is null));

-- Webhooks to be sent; written with the event they tell of.
create table webhook_deliveries (
    job_id uuid not null,
    sequence bigint not null,
    -- Tries that were begun: the fence of what a try comes to.
    attempts integer not null default 0,
    -- When the next try begins; while one is under way, when it counts as lost. Null: never again.
    due_at timestamptz,
    delivered_at timestamptz,
    primary key (job_id, sequence),
    foreign key (job_id, sequence) references job_events on delete cascade
);

create index webhook_deliveries_due on webhook_deliveries (due_at) where due_at is not null;
