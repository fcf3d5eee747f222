-- A session can hold several refresh tokens: providers other than Entra bind each to one API.
create table grants (
    session_id uuid not null references sessions (id) on delete cascade,
    -- Name of the API it is good for; empty: any, as at Entra.
    api text not null,
    -- Grows with every change of this grant: the fence of its refreshes.
    version bigint not null,
    -- encrypted; null if the provider gave none, or once it is dead or its session stopped
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
    primary key (session_id, api),
    check ((refresher is null) = (refresh_until is null))
);

insert into grants (session_id, api, version, refresh_token, presented, not_before, refused_at)
    select id, '', version, refresh_token, presented, not_before, refused_at from sessions;

-- What is left of `version` is the fence of stop and resume; the checks on the columns go with them.
alter table sessions
    drop column refresh_token,
    drop column refresher,
    drop column refresh_until,
    drop column presented,
    drop column not_before,
    drop column refused_at;

-- An access token belongs to the grant that it was got with.
alter table access_tokens add column api text not null default '';
alter table access_tokens alter column api drop default;
alter table access_tokens
    drop constraint access_tokens_pkey,
    drop constraint access_tokens_session_id_fkey,
    add primary key (session_id, api, scope_set),
    add foreign key (session_id, api) references grants (session_id, api) on delete cascade;
