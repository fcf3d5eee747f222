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
