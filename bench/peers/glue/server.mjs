// What a team writes today for the same purpose, as well as it can: an Express server that verifies the
// caller's token (jose), exchanges it on behalf of the user (msal-node, which caches by token) and
// enqueues a job (pg-boss). Settings come from the environment; it prints its address.
import { ConfidentialClientApplication } from '@azure/msal-node';
import express from 'express';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import { PgBoss } from 'pg-boss';

const { DATABASE_URL, AUTHORITY, CLIENT_ID, CLIENT_SECRET, SCOPE } = process.env;

const metadata = await (await fetch(`${AUTHORITY}/v2.0/.well-known/openid-configuration`)).json();
const keys = createRemoteJWKSet(new URL(metadata.jwks_uri));
const expected = { issuer: metadata.issuer, audience: [CLIENT_ID, `api://${CLIENT_ID}`], algorithms: ['RS256'] };

const application = new ConfidentialClientApplication({
  auth: {
    clientId: CLIENT_ID,
    clientSecret: CLIENT_SECRET,
    authority: AUTHORITY,
    knownAuthorities: [new URL(AUTHORITY).host],
  },
});

const boss = new PgBoss({ connectionString: DATABASE_URL, max: 16 });
boss.on('error', (error) => console.error(error));
await boss.start();
await boss.createQueue('calls');

const app = express();
app.use(express.json());
app.post('/jobs', async (request, response) => {
  const token = request.get('authorization')?.replace(/^Bearer /, '') ?? '';
  let user;
  try {
    ({ payload: user } = await jwtVerify(token, keys, expected));
  } catch {
    response.status(401).json({ error: 'invalid_token' });
    return;
  }
  await application.acquireTokenOnBehalfOf({ oboAssertion: token, scopes: [SCOPE] });
  const id = await boss.send('calls', {
    definition: request.body.definition,
    account: `${user.oid}.${user.tid}`,
  });
  response.status(202).location(`/jobs/${id}`).json({ id, status: 'pending' });
});
app.get('/ready', (_, response) => { response.json({}); });

const server = app.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ address: `http://127.0.0.1:${server.address().port}` }));
});
process.on('SIGTERM', () => process.exit(0));
