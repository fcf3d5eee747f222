"""How long MSAL Python takes for a token that it has in memory. Prints microseconds."""
import os
import time

import msal

application = msal.ConfidentialClientApplication(
    os.environ["CLIENT_ID"],
    client_credential=os.environ["CLIENT_SECRET"],
    authority=os.environ["AUTHORITY"],
    instance_discovery=False,
)
scopes = [os.environ["SCOPE"]]
result = application.acquire_token_on_behalf_of(os.environ["USER_TOKEN"], scopes)
assert "access_token" in result, result
[account] = application.get_accounts()

LOOKUPS = 5000
for done in range(-1000, LOOKUPS):
    if done == 0:
        began = time.perf_counter()
    result = application.acquire_token_silent(scopes, account)
    assert result["token_source"] == "cache", result
print((time.perf_counter() - began) * 1e6 / LOOKUPS)
