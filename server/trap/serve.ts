// SPDX-License-Identifier: Apache-2.0
/** The trap thread: listens for QEMU, and decides every trap. Imported by worker.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { loadPolicy } from '../policy/load.ts'
import { OperationError } from '../policy/operationError.ts'
import { SocketStream } from './byteStream.ts'
import { Dispatcher } from './dispatcher.ts'
import { Listener } from './listener.ts'
import type { Lifecycle, Post, ThreadCall, ThreadMessage, ThreadOptions } from './messages.ts'
import { type Call, invoke } from './rpc.ts'
import { trial } from './trial.ts'

if (parentPort === null) throw new Error('this file runs as a worker')
const port = parentPort
const options = workerData as ThreadOptions
const send = (message: ThreadMessage) => port.postMessage(message)
const post: Post = (event, ...args) => send({ event, args } as ThreadMessage)

const { factory } = await loadPolicy(options.policy)
// The ring has one producer: until it takes over, a thread that waits in reserve has no dispatcher.
let dispatcher: Dispatcher | undefined
const listener = new Listener(
  options.listen,
  socket => dispatcher?.attach(new SocketStream(socket, options.peerEnds === true)),
  reason => post('turnedAway', reason),
  options.token !== undefined,
)

const lifecycle: Lifecycle = {
  try: (machine, checkpoint) => trial(factory, options.policyOptions, machine, options.ramFile, checkpoint),
  async serve(left) {
    if (dispatcher === undefined) {
      dispatcher = new Dispatcher(options, factory, post)
      if (left !== null) dispatcher.adopt(left)
    }
    await listener.open()
  },
  async retire() {
    const left = dispatcher?.retire() ?? null
    await listener.close()
    return left
  },
}

const isLifecycle = (call: ThreadCall): call is Call<Lifecycle> => Object.hasOwn(lifecycle, call.method)

/** The value of a call, or a promise of it. @throws Error */
async function carryOut(call: ThreadCall): Promise<unknown> {
  if (isLifecycle(call)) return invoke(lifecycle, call)
  if (dispatcher === undefined) throw new OperationError('state', 'this thread does not serve yet')
  return dispatcher.operate(call)
}

/** What is thrown, as a message. */
function failed(id: number, error: unknown): ThreadMessage {
  const failure = error instanceof OperationError ? { failure: error.failure } : {}
  return { id, error: { message: (error as Error).message, ...failure } }
}

port.on('message', async ({ id, ...call }: ThreadCall & { readonly id: number }) => {
  try {
    // It throws for what cannot be cloned: a policy of one's own has told a function, say.
    send({ id, value: await carryOut(call) })
  } catch (error) {
    send(failed(id, error))
  }
})

post('loaded')
