-- Which events of sessions are old enough to be deleted.
create index session_events_at on session_events (at);
