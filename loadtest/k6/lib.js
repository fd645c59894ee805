// What all scripts share: settings, a peer with its socket, what is counted. One VU holds many peers:
// its iteration lasts as long as a socket of it is open.
import http from 'k6/http';
import encoding from 'k6/encoding';
import { Counter, Rate, Trend } from 'k6/metrics';
import { WebSocket } from './websocket.js';

const number = (name, otherwise) => {
  const value = __ENV[name] === undefined ? otherwise : Number(__ENV[name]);
  if (!(value >= 0)) throw new Error(`${name} is no number: ${__ENV[name]}`);
  return value;
};

export const settings = {
  urls: (__ENV.URL || 'ws://127.0.0.1:7900/ws').split(','),
  signer: __ENV.SIGNER || 'http://127.0.0.1:7999',
  token: __ENV.SIGNER_TOKEN || '',
  vus: number('VUS', 2),
  sockets: number('SOCKETS', 20),
  seconds: number('SECONDS', 60),
  // Between two sends of one peer: a member may send once a second, ten at once.
  interval: number('INTERVAL', 5),
  payload: number('PAYLOAD', 512),
};

const began = Date.now();

// Time for what is under way when the sending ends.
export const SETTLE = 10;

export const counted = {
  connectFailed: new Rate('connect_failed'),
  connected: new Counter('connected'),
  connectTime: new Trend('connect_time', true),
  closedEarly: new Counter('closed_early'),
  errors: new Counter('error_frames'),
  refused: new Rate('send_refused'),
  accepted: new Counter('send_accepted'),
  unanswered: new Counter('send_unanswered'),
  delivered: new Rate('delivered'),
  ackTime: new Trend('ack_time', true),
  deliveryTime: new Trend('delivery_time', true),
  duplicates: new Counter('duplicates'),
};

// A run with one of these broken ends with exit code 99.
export const thresholds = {
  connect_failed: ['rate==0'],
  // A run in which nobody got in must not pass for one without faults.
  connected: [`count>=${settings.vus * settings.sockets}`],
  closed_early: ['count==0'],
  error_frames: ['count==0'],
};

export const messageThresholds = {
  send_refused: ['rate==0'],
  send_unanswered: ['count==0'],
  delivered: ['rate==1'],
  send_accepted: ['count>0'],
  ack_time: [`p(99)<${number('ACK_P99', 250)}`],
  delivery_time: [`p(99)<${number('DELIVERY_P99', 500)}`],
};

// One iteration for each VU, as long as its peers live.
export const scenario = (seconds) => ({
  executor: 'per-vu-iterations',
  vus: settings.vus,
  iterations: 1,
  maxDuration: `${seconds + SETTLE + 60}s`,
});

// For `setup`: how many members the signer knows. Fails at once where the signer cannot be reached.
export function members() {
  const answer = http.get(`${settings.signer}/members`, { headers: signerHeaders() });
  if (answer.status !== 200) throw new Error(`the signer answers ${answer.status}: ${answer.error || answer.body}`);
  return answer.json('count');
}

const signerHeaders = () => ({ Authorization: `Bearer ${settings.token}`, 'Content-Type': 'application/json' });

// Number of this VU's `index`-th peer among all peers of the run.
export const position = (index) => (__VU - 1) * settings.sockets + index;

// Without waiting, at random within `seconds`: a herd would measure the listen queue.
export const within = (seconds) => Math.random() * seconds * 1000;

export class Peer {
  // `session` false is the member's own connection: it returns to the same presence every time.
  constructor({ number, members, session = true, on = {} }) {
    this.member = number % members;
    this.session = session;
    this.url = settings.urls[number % settings.urls.length];
    this.on = on;
    this.number = number;
    this.waiting = new Map();
    this.seen = new Set();
    this.sent = 0;
    this.open = false;
  }

  // `ready` is called once, with this peer, after `hello_ack`; `ended` once, whatever happens.
  async connect(ready = () => {}, ended = () => {}) {
    const hello = await http.asyncRequest(
      'POST',
      `${settings.signer}/hello`,
      // A signer that knows `index` gives the same session again for the same one: then a run returns to
      // the presences of the last, which otherwise hold places of the mesh until their grace is over.
      JSON.stringify({ member: this.member, session: this.session, index: this.number }),
      { headers: signerHeaders() },
    );
    if (hello.status !== 200) {
      console.error(`the signer answers ${hello.status}: ${hello.error || hello.body}`);
      counted.connectFailed.add(true);
      ended(this);
      return;
    }
    const said = hello.json();
    const connecting = Date.now();
    this.address = said.sessionPubkey || said.pubkey;

    const socket = new WebSocket(this.url);
    this.socket = socket;
    this.leaving = false;
    let settled = false;
    const settle = (good) => {
      if (settled) return;
      settled = true;
      counted.connectFailed.add(!good);
    };
    // A broker that takes the connection and says nothing.
    const timeout = setTimeout(() => {
      settle(false);
      socket.close();
    }, 15000);
    socket.onopen = () => socket.send(hello.body);
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.type === 'hello_ack') {
        clearTimeout(timeout);
        settle(true);
        this.open = true;
        counted.connected.add(1);
        counted.connectTime.add(Date.now() - connecting);
        ready(this);
        return;
      }
      this.receive(frame);
    };
    let over = false;
    socket.onclose = ({ code }) => {
      if (over) return;
      over = true;
      clearTimeout(timeout);
      settle(false);
      if (this.open && !this.leaving) {
        counted.closedEarly.add(1, { code: String(code) });
      }
      this.open = false;
      ended(this);
    };
    // Some versions close without saying so when the connection was refused.
    socket.onerror = () => socket.onclose({ code: 0 });
  }

  receive(frame) {
    if (frame.type === 'ack' && this.waiting.has(frame.id)) {
      const sent = this.waiting.get(frame.id);
      this.waiting.delete(frame.id);
      counted.refused.add(!frame.queued);
      if (frame.queued) {
        counted.accepted.add(1);
        counted.ackTime.add(Date.now() - sent);
      }
      if (this.on.ack) this.on.ack(frame);
    } else if (frame.type === 'push' && frame.ciphertext) {
      this.say({ type: 'client_ack', brokerMessageId: frame.messageId });
      if (this.seen.has(frame.messageId)) {
        counted.duplicates.add(1);
        return;
      }
      this.seen.add(frame.messageId);
      // Left over from an earlier run, for a session that is back.
      if (sentAt(frame) < began) return;
      if (this.on.message) this.on.message(frame, this);
    } else if (frame.type === 'error') {
      counted.errors.add(1, { code: frame.code });
    } else if (this.on.frame) {
      this.on.frame(frame, this);
    }
  }

  say(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  // Sends to `target`; the time of sending and the text's end are in the ciphertext.
  send(target, priority = 'now') {
    const id = `k6-${__VU}-${this.number}-${Date.now()}-${this.sent++}`;
    const now = Date.now();
    const body = encoding.b64encode(`${now}|`.padEnd((settings.payload * 3) / 4, '.'));
    this.waiting.set(id, now);
    this.say({ type: 'send', id, client_message_id: id, targetSpec: target, priority, nonce: 'bm9uY2U=', ciphertext: body });
    return id;
  }

  leave() {
    this.leaving = true;
    counted.unanswered.add(this.waiting.size);
    this.waiting.clear();
    if (this.socket) this.socket.close();
  }
}

// When the message was sent, as its ciphertext says.
export const sentAt = (frame) => Number(encoding.b64decode(frame.ciphertext, 'std', 's').split('|')[0]);

// Calls `step` every `seconds`, not all peers at once, until `until` (a time in ms).
export function every(seconds, until, step) {
  const next = () => {
    if (Date.now() >= until) return;
    step();
    setTimeout(next, seconds * 1000);
  };
  setTimeout(next, within(seconds));
}

// `setTimeout` that leaves nothing behind the run.
export const at = (time, step) => setTimeout(step, Math.max(1, time - Date.now()));
