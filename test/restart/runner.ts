// SPDX-License-Identifier: Apache-2.0
/**
 * A server as a process of its own, to be killed: only the trap thread's work. It waits for a line on its standard input
 * before it listens, so that a successor can be ready before its predecessor dies.
 *
 *     runner.ts SOCKET RAM-FOLDER POLICY POLICY-OPTIONS TRANSLATE-MODE
 */
import { once } from 'node:events'
import { loadPolicy } from '../../server/policy/load.ts'
import { createCounters } from '../../server/trace/counters.ts'
import { createRing } from '../../server/trace/ring.ts'
import type { TranslateMode } from '../../server/translate/translator.ts'
import { SocketStream } from '../../server/trap/byteStream.ts'
import { Dispatcher } from '../../server/trap/dispatcher.ts'
import { Listener } from '../../server/trap/listener.ts'
import type { Post } from '../../server/trap/messages.ts'

const [socket = '', ramFolder = '', policy = '', policyOptions = '{}', translate = 'hardware'] = process.argv.slice(2)

const tell: Post = (event, ...args) => {
  // What a machine is takes long to print, and nobody asks for it.
  const shown = event === 'connected' ? [null, ...args.slice(1)] : args
  process.stdout.write(`${JSON.stringify({ event, args: shown })}\n`)
}

const { factory } = await loadPolicy(policy)
process.stdout.write(`${JSON.stringify({ event: 'ready', args: [] })}\n`)
await once(process.stdin, 'data')
const dispatcher = new Dispatcher(
  {
    listen: socket,
    policy,
    policyOptions: JSON.parse(policyOptions) as Record<string, unknown>,
    ramFile: `${ramFolder}/`,
    ring: createRing(1 << 16),
    counters: createCounters(),
    panicOnWarn: false,
    translate: translate as TranslateMode,
  },
  factory,
  tell,
)
await new Listener(
  socket,
  peer => dispatcher.attach(new SocketStream(peer, false)),
  reason => tell('turnedAway', reason),
).open()
