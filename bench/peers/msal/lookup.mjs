// How long msal-node takes for a token that it has in memory. Prints microseconds.
import { ConfidentialClientApplication } from '@azure/msal-node';

const { AUTHORITY, CLIENT_ID, CLIENT_SECRET, SCOPE, USER_TOKEN } = process.env;
const application = new ConfidentialClientApplication({
  auth: {
    clientId: CLIENT_ID,
    clientSecret: CLIENT_SECRET,
    authority: AUTHORITY,
    knownAuthorities: [new URL(AUTHORITY).host],
  },
});
const request = { oboAssertion: USER_TOKEN, scopes: [SCOPE] };
await application.acquireTokenOnBehalfOf(request);

const LOOKUPS = 5000;
let began;
for (let done = -1000; done < LOOKUPS; done += 1) {
  if (done === 0) began = performance.now();
  const { fromCache } = await application.acquireTokenOnBehalfOf(request);
  if (!fromCache) throw new Error('the token did not come from the cache');
}
console.log(((performance.now() - began) * 1e3) / LOOKUPS);
