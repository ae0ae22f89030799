// A sign-in: tokens kept for this tab, refreshed before they expire.

const STORE = "runwire.session";
const ANSWER_MS = 20000; // a network that swallows everything says nothing
const EARLY_MS = 60000; // refresh this long before the token's end

/** Why a sign-in or refresh did not work, in words for a person. */
export class SignInFailed extends Error {}

export class Session {
  /** @param {URL} root address of the server */
  constructor(root) {
    this.root = root;
    this.held = recall(STORE);
    this.refreshing = null;
  }

  get isSignedIn() {
    return this.held !== null;
  }

  get user() {
    return this.held?.user ?? null;
  }

  /** Sign in with `{link}` or `{user, password}`. */
  async signIn(body) {
    const answer = await fetch(new URL("auth/sessions", this.root), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_MS),
    }).catch(() => null);
    if (answer === null) throw new SignInFailed("The server does not answer. Is it running?");
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      if (answer.status === 401 || answer.status === 403 || answer.status === 400)
        throw new SignInFailed(
          body.link ? "This sign-in link was used or has expired. Restart the server for a new one." : "User or password is wrong.",
        );
      throw new SignInFailed(problem.detail ?? problem.message ?? `The server answered ${answer.status}.`);
    }
    this.#hold(await answer.json());
  }

  /** Return the names of the other issuers that people can sign in by. */
  async issuers() {
    const answer = await fetch(new URL("auth/external", this.root), { signal: AbortSignal.timeout(ANSWER_MS) }).catch(() => null);
    const found = answer?.ok ? await answer.json().catch(() => null) : null;
    return (found?.issuers ?? []).map((issuer) => issuer.name).filter((name) => /^[a-z0-9-]{1,32}$/.test(name));
  }

  /** End this session on the server, and forget it here whatever the server says. */
  async signOut() {
    const token = this.held?.access;
    this.forget();
    if (token)
      await fetch(new URL("auth/sessions/current", this.root), {
        method: "DELETE",
        headers: { Authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(ANSWER_MS),
      }).catch(() => null);
  }

  forget() {
    this.held = null;
    keep(STORE, null);
  }

  /**
   * Return an access token that is still valid for a while; null if the session is over.
   * Throws if the server cannot be reached: try again later.
   */
  async token() {
    if (this.held === null) return null;
    if (this.held.expiresAt - Date.now() > Math.min(EARLY_MS, this.held.lifeMs / 4)) return this.held.access;
    return this.refresh();
  }

  /** Refresh now; several callers share one request. */
  refresh() {
    this.refreshing ??= this.#refresh().finally(() => { this.refreshing = null; });
    return this.refreshing;
  }

  /** Ask the server for JSON as this user; null if it is not to be had. */
  async get(path) {
    const token = await this.token().catch(() => null);
    if (token === null) return null;
    const answer = await fetch(new URL(path, this.root), { headers: { Authorization: `Bearer ${token}` }, signal: AbortSignal.timeout(ANSWER_MS) }).catch(() => null);
    return answer?.ok ? answer.json().catch(() => null) : null;
  }

  async #refresh() {
    if (!this.held?.refresh) return null;
    const answer = await fetch(new URL("auth/token", this.root), {
      method: "POST",
      signal: AbortSignal.timeout(ANSWER_MS),
      body: new URLSearchParams({ grant_type: "refresh_token", refresh_token: this.held.refresh }),
    });
    if (answer.ok) {
      this.#hold(await answer.json());
      return this.held.access;
    }
    if (answer.status >= 500 || answer.status === 429) throw new Error(`refresh answered ${answer.status}`);
    this.forget();
    return null;
  }

  #hold(answer) {
    const lifeMs = (answer.expires_in ?? 300) * 1000;
    this.held = {
      access: answer.access_token,
      refresh: answer.refresh_token ?? this.held?.refresh ?? null,
      expiresAt: Date.now() + lifeMs,
      lifeMs,
      user: answer.user ?? this.held?.user ?? null,
    };
    keep(STORE, this.held);
  }
}

/** Take the link out of the address before anything else can see it, and return it. */
export function takeLink() {
  const url = new URL(location.href);
  // In the fragment it comes back from another issuer: no server gets to see that.
  const inFragment = /^#link=([A-Za-z0-9_~]{1,128})$/.exec(url.hash)?.[1] ?? null;
  const link = inFragment ?? url.searchParams.get("link");
  if (link === null) return null;
  if (inFragment !== null) url.hash = "";
  url.searchParams.delete("link");
  history.replaceState(null, "", url);
  return link;
}

/** Keep something for this tab; null forgets it. Where that is full or forbidden it is kept for the life of the page only. */
export function keep(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(name);
    else sessionStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Nothing that is kept is needed before the next reload.
  }
}

/** What was kept under this name; null: nothing. */
export function recall(name) {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null;
  }
}
