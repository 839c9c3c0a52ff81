// Node ws as a stranger: everything it can say to an echo, and what must come back.
//
// Usage: node client.js URL, with NODE_PATH leading to ws. Exits with 1 at the first thing that is not as it should be.
'use strict';

const { randomBytes } = require('crypto');
const { once } = require('events');
const WebSocket = require('ws');

function check(what, found, wanted) {
  if (found !== wanted) {
    console.error(`${what}: ${String(found).slice(0, 200)} instead of ${String(wanted).slice(0, 200)}`);
    process.exit(1);
  }
  console.log(`${what}: as it should be`);
}

async function converse(url, perMessageDeflate) {
  const socket = new WebSocket(url, { perMessageDeflate });
  await once(socket, 'open');
  const heard = async () => {
    const [data, binary] = await once(socket, 'message');
    return binary ? data.toString('hex') : data.toString();
  };

  socket.send('Grüße, 世界');
  check('text', await heard(), 'Grüße, 世界');
  socket.send(Buffer.from([0, 255, 1, 254]));
  check('binary', await heard(), '00ff01fe');
  const large = randomBytes(1 << 20);
  socket.send(large);
  check('1 MiB', await heard(), large.toString('hex'));
  socket.send('one ', { fin: false });
  socket.send('two ', { fin: false });
  socket.send('three', { fin: true });
  check('fragments', await heard(), 'one two three');
  socket.ping('are you there?');
  check('ping', String((await once(socket, 'pong'))[0]), 'are you there?');
  socket.close(4001, 'enough said');
  const [code, reason] = await once(socket, 'close');
  check('close', `${code} ${reason}`, '4001 enough said');
}

setTimeout(() => { console.error('nothing more came'); process.exit(1); }, 30000).unref();
converse(process.argv[2], false)
  .then(() => converse(process.argv[2], true))
  .catch((error) => { console.error(error); process.exit(1); });
