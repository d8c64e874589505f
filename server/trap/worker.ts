// SPDX-License-Identifier: Apache-2.0
/** The trap thread: listens for QEMU, and decides every trap. Started by TrapThread (control.ts) as a worker. */
import { parentPort, workerData } from 'node:worker_threads'
import type { Hello } from '../../protocol/generated/messages.ts'
import { loadPolicy } from '../policy/load.ts'
import { Dispatcher } from './dispatcher.ts'
import { Listener } from './listener.ts'
import type { Handover, ThreadCommand, ThreadEvent, ThreadOptions } from './messages.ts'
import { OperationError } from './operations.ts'
import { trial } from './trial.ts'

if (parentPort === null) throw new Error('this file runs as a worker')
const port = parentPort
const options = workerData as ThreadOptions
const post = (event: ThreadEvent) => port.postMessage(event)

const { factory } = await loadPolicy(options.policy)
// The ring has one producer: until it takes over, a thread that waits in reserve has no dispatcher.
let dispatcher: Dispatcher | undefined
const listener = new Listener(options.listen, socket => dispatcher?.attach(socket))

async function serve(left: Handover | null): Promise<void> {
  if (dispatcher === undefined) {
    dispatcher = new Dispatcher(options, factory, post)
    if (left !== null) dispatcher.adopt(left)
  }
  await listener.open()
}

/** What a thread is asked while it hands over, or takes over; all the rest is the dispatcher's. */
async function run(operation: string, args: readonly unknown[]): Promise<unknown> {
  switch (operation) {
    case 'try':
      return trial(factory, options.policyOptions, args[0] as Hello, options.ramFile, args[1] as Uint8Array)
    case 'serve':
      return serve(args[0] as Handover | null)
    case 'retire': {
      const left = dispatcher?.retire()
      await listener.close()
      return left
    }
    default:
      if (dispatcher === undefined) throw new OperationError('state', 'this thread does not serve yet')
      return dispatcher.operate(operation, args)
  }
}

port.on('message', ({ id, operation, args }: ThreadCommand) => {
  run(operation, args).then(
    value => post({ event: 'result', id, value }),
    error => {
      const failure = error instanceof OperationError ? { failure: error.failure } : {}
      post({ event: 'result', id, error: (error as Error).message, ...failure })
    },
  )
})

post({ event: 'loaded' })
