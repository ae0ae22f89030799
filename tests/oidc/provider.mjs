// A real OpenID provider for the tests: people sign in by `login_hint`, and give their consent at once.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(process.env.MODULES + "/");
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const told = JSON.parse(process.env.PROVIDER);

const provider = new Provider(told.issuer, {
  jwks: { keys: told.keys },
  cookies: { keys: ["a key of the tests"] },
  fetch: (url, { dispatcher, ...options }) => fetch(url, options), // its own refuses loopback
  clients: [{
    client_id: "page",
    client_secret: told.secret,
    redirect_uris: [told.redirect_uri],
    backchannel_logout_uri: told.backchannel_uri,
    backchannel_logout_session_required: true,
    id_token_signed_response_alg: told.algorithm,
  }],
  claims: { openid: ["sub", "preferred_username", "groups"], profile: ["preferred_username", "groups"] },
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, preferred_username: told.people[id]?.name ?? id, groups: told.people[id]?.groups ?? [] }),
  }),
  features: {
    devInteractions: { enabled: false },
    backchannelLogout: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    rpInitiatedLogout: { enabled: true, logoutSource: (ctx, form) => { ctx.body = form; } },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, resource) => ({
        scope: "api", audience: resource, accessTokenFormat: resource.endsWith("/opaque") ? "opaque" : "jwt",
        accessTokenTTL: 300, jwt: { sign: { alg: told.algorithm } },
      }),
    },
  },
  extraTokenClaims: (ctx, token) => ({
    sid: ctx.oidc.entities.AuthorizationCode?.sid,
    groups: told.people[token.accountId]?.groups ?? [],
    preferred_username: told.people[token.accountId]?.name ?? token.accountId,
  }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  loadExistingGrant: async (ctx) => {
    const grant = new provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope("openid profile");
    for (const resource of told.resources) grant.addResourceScope(resource, "api");
    await grant.save();
    return grant;
  },
});
provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith("/interaction/")) return next();
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  ctx.respond = false;
  return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: params.login_hint } });
});

for (const name of ["server_error", "backchannel.error"])
  provider.on(name, (...said) => console.error(name, said.map((one) => one?.message ?? "").join(" ")));

const server = createServer(provider.callback());
server.listen(told.port, "127.0.0.1", () => console.log("listening"));
