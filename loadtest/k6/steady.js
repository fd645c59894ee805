// Peers that are connected all the time and send now and then, as agents do.
import { members, messageThresholds, scenario, settings, thresholds } from './lib.js';
import { talk } from './talk.js';

export const options = {
  scenarios: { steady: scenario(settings.seconds) },
  thresholds: { ...thresholds, ...messageThresholds },
};

export const setup = members;

export default function (count) {
  talk(count, settings.seconds);
}
