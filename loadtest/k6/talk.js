// Peers of one VU that send to each other in turn. Since both ends are in one VU, it knows of each
// message whether it arrived. Used by steady.js and soak.js.
import { SETTLE, Peer, at, counted, every, position, sentAt, settings, within } from './lib.js';

export function talk(members, seconds) {
  const until = Date.now() + seconds * 1000;
  const peers = [];
  const onTheWay = new Set();
  const on = {
    // The ack may come behind the push.
    ack: (ack) => {
      if (ack.queued) arrived(ack.messageId, false);
    },
    message: (push) => {
      counted.deliveryTime.add(Date.now() - sentAt(push));
      arrived(push.messageId, true);
    },
  };
  // Seen from one side first, from the other later: then it is delivered.
  const arrived = (id) => {
    if (onTheWay.delete(id)) counted.delivered.add(true);
    else onTheWay.add(id);
  };

  for (let index = 0; index < settings.sockets; index++) {
    const peer = new Peer({ number: position(index), members, on });
    peers.push(peer);
    setTimeout(() => {
      peer.connect(() => {
        // The first peers wait for the others to be there.
        setTimeout(() => {
          let turn = index;
          every(settings.interval, until, () => {
            if (!peer.open) return;
            do turn = (turn + 1) % peers.length;
            while (peers[turn] === peer && peers.length > 1);
            if (peers[turn].open) peer.send(peers[turn].address);
          });
        }, 5000);
      });
    }, within(5));
  }
  at(until + SETTLE * 1000, () => {
    onTheWay.forEach(() => counted.delivered.add(false));
    peers.forEach((peer) => peer.leave());
  });
  return peers;
}
