// k6 1.1 has the module as experimental, later versions have it under its own name and drop the other.
// Only `require` can try both: an import that fails ends the script.
let found;
try {
  found = require('k6/websockets');
} catch (_) {
  found = require('k6/experimental/websockets');
}
exports.WebSocket = found.WebSocket;
