// Peers that ask who is here, change their status and see others come: no messages.
import { Trend, Counter } from 'k6/metrics';
import { SETTLE, Peer, at, every, members, position, scenario, settings, thresholds, within } from './lib.js';

const listTime = new Trend('list_time', true);
const joined = new Counter('peer_joined_seen');
const unlisted = new Counter('list_unanswered');

export const options = {
  scenarios: { presence: scenario(settings.seconds) },
  thresholds: {
    ...thresholds,
    list_time: [`p(99)<${Number(__ENV.LIST_P99 || 500)}`],
    list_unanswered: ['count==0'],
  },
};

export const setup = members;

export default function (count) {
  const until = Date.now() + settings.seconds * 1000;
  const peers = [];
  for (let index = 0; index < settings.sockets; index++) {
    const asked = new Map();
    const peer = new Peer({
      number: position(index),
      members: count,
      on: {
        frame: (frame) => {
          if (frame.type === 'peers_list' && asked.has(frame._reqId)) {
            listTime.add(Date.now() - asked.get(frame._reqId));
            asked.delete(frame._reqId);
          } else if (frame.event === 'peer_joined') {
            joined.add(1);
          }
        },
      },
    });
    peers.push(peer);
    setTimeout(() => {
      peer.connect(() => {
        let turn = 0;
        every(settings.interval, until, () => {
          if (!peer.open) return;
          const id = `list-${__VU}-${index}-${turn}`;
          asked.set(id, Date.now());
          peer.say({ type: 'list_peers', _reqId: id });
          peer.say({ type: 'set_status', status: turn++ % 2 ? 'idle' : 'working' });
        });
      });
    }, within(5));
    at(until + SETTLE * 1000, () => {
      unlisted.add(asked.size);
      peer.leave();
    });
  }
}
