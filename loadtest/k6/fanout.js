// The first peer of each VU sends to everybody (`*`); all others, of all VUs, must get it.
import { Counter } from 'k6/metrics';
import {
  SETTLE, Peer, at, counted, every, members, messageThresholds, position, scenario, sentAt, settings,
  thresholds, within,
} from './lib.js';

// Up by all other peers for each accepted message, down by one for each that got it. The ack's own
// `recipients` also counts sessions of an earlier run that are in their grace.
const missing = new Counter('fanout_missing');

// Whether one message arrived is nothing that one VU knows.
const { delivered, ...others } = messageThresholds;

export const options = {
  scenarios: { fanout: scenario(settings.seconds + 10) },
  thresholds: { ...thresholds, ...others, fanout_missing: ['count==0'] },
};

export const setup = members;

export default function (count) {
  // Everybody is there before the first word, so that it is known how many it is for.
  const from = Date.now() + 10000;
  const until = from + settings.seconds * 1000;
  const on = {
    ack: (ack) => ack.queued && missing.add(settings.vus * settings.sockets - 1),
    message: (push) => {
      counted.deliveryTime.add(Date.now() - sentAt(push));
      missing.add(-1);
    },
  };
  for (let index = 0; index < settings.sockets; index++) {
    const peer = new Peer({ number: position(index), members: count, on });
    setTimeout(() => {
      peer.connect(() => {
        if (index > 0) return;
        at(from, () => every(settings.interval, until, () => peer.open && peer.send('*')));
      });
    }, within(5));
    at(until + SETTLE * 1000, () => peer.leave());
  }
}
