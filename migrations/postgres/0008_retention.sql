-- What is old enough to be deleted: unfinished jobs are not in it.
create index jobs_finished on jobs (finished_at) where finished_at is not null;

-- Whether a session still has unfinished jobs, when its last one ended, and whether any refers to it.
create index jobs_session on jobs (session_id, finished_at) where session_id is not null;

-- In the order in which they are looked at.
create index sessions_held on sessions (id) where state <> 'stopped';
create index sessions_stopped on sessions (id) where state = 'stopped';
