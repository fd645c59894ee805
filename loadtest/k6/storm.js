// All peers come at once, leave, and come at once again: a deploy, or a network that is back. A peer is
// its member's own connection, so it returns to its presence; there must be a member for each.
import { Peer, counted, members, position, scenario, settings, thresholds, within } from './lib.js';

const rounds = Number(__ENV.ROUNDS || 5);
// Seconds in which all of them connect, and for which they stay.
const ramp = Number(__ENV.RAMP || 2);
const stay = Number(__ENV.STAY || 3);

export const options = {
  scenarios: { storm: scenario(rounds * (ramp + stay + 15)) },
  thresholds: {
    ...thresholds,
    connected: [`count>=${settings.vus * settings.sockets * rounds}`],
    connect_time: [`p(95)<${Number(__ENV.CONNECT_P95 || 1000)}`],
  },
};

export function setup() {
  const count = members();
  const wanted = settings.vus * settings.sockets;
  if (count < wanted) throw new Error(`${wanted} peers want as many members; the mesh has ${count}`);
  return count;
}

export default function (count) {
  for (let index = 0; index < settings.sockets; index++) {
    const peer = new Peer({ number: position(index), members: count, session: false });
    let round = 0;
    const come = () => {
      if (round++ >= rounds) return;
      setTimeout(() => {
        peer.connect(
          () => setTimeout(() => peer.leave(), stay * 1000),
          come,
        );
      }, within(ramp));
    };
    come();
  }
}
