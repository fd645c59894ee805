// steady.js for hours (SECONDS), in which one peer after the other also leaves and comes back: what grows
// slowly shows here. Watch the nodes' memory and broker_queue_depth beside it.
import { at, counted, members, messageThresholds, scenario, thresholds, settings, within } from './lib.js';
import { talk } from './talk.js';

const seconds = __ENV.SECONDS ? settings.seconds : 4 * 3600;
// Each peer's stay, on average.
const stay = Number(__ENV.STAY || 600);

export const options = {
  scenarios: { soak: scenario(seconds) },
  thresholds: {
    ...thresholds,
    ...messageThresholds,
    // To somebody who has just left: refused, or held until it is back.
    send_refused: ['rate<0.01'],
    delivered: ['rate>0.99'],
  },
};

export const setup = members;

export default function (count) {
  const until = Date.now() + seconds * 1000;
  const peers = talk(count, seconds);
  peers.forEach((peer) => {
    const come = () => {
      const next = Date.now() + stay * 500 + within(stay);
      if (next > until - 30000) return;
      at(next, () => {
        if (!peer.open) {
          come();
          return;
        }
        peer.leave();
        setTimeout(() => peer.connect(come), 1000 + within(5));
      });
    };
    come();
  });
}
