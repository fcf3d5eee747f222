-- What happened to a job, for its owner: written with the change it tells of.
create table job_events (
    job_id blob not null references jobs (id) on delete cascade,
    -- The job's revision after the change.
    sequence integer not null,
    at integer not null,
    kind text not null,
    -- JSON object; no inputs, outputs, claims or tokens
    data text not null,
    primary key (job_id, sequence)
) strict;

-- What happened to a session's grant, for the owners of its jobs.
create table session_events (
    session_id blob not null references sessions (id) on delete cascade,
    -- The session's version after the change.
    sequence integer not null,
    at integer not null,
    kind text not null,
    -- JSON object; no claims or tokens
    data text not null,
    primary key (session_id, sequence)
) strict;

-- What was called in the user's name; written with the record that follows the call.
create table job_calls (
    job_id blob not null references jobs (id) on delete cascade,
    -- The job's revision after that record, and the call's number among those it brought.
    sequence integer not null,
    ordinal integer not null,
    -- When it was sent.
    at integer not null,
    duration_ms integer not null,
    task text not null,
    api text not null,
    -- JSON array: what the token was asked for with
    scopes text not null,
    method text not null,
    -- encrypted; without the query
    path blob not null,
    attempt integer not null,
    outcome text not null,
    -- Null without an answer.
    status integer,
    primary key (job_id, sequence, ordinal)
) strict;

-- Where a job's submitter wants to be told of it: encrypted, and at which events (words).
alter table jobs add column callback blob;
alter table jobs add column callback_events text
    check ((callback is null) = (callback_events is null));

-- Webhooks to be sent; written with the event they tell of.
create table webhook_deliveries (
    job_id blob not null,
    sequence integer not null,
    -- Tries that were begun: the fence of what a try comes to.
    attempts integer not null default 0,
    -- When the next try begins; while one is under way, when it counts as lost. Null: never again.
    due_at integer,
    delivered_at integer,
    primary key (job_id, sequence),
    foreign key (job_id, sequence) references job_events on delete cascade
) strict;

create index webhook_deliveries_due on webhook_deliveries (due_at) where due_at is not null;
