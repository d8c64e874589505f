// SPDX-License-Identifier: Apache-2.0
/** The trap thread: listens for QEMU, and decides every trap. Started by TrapThread (control.ts) as a worker. */
import { createServer } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'
import type { ThreadCommand, ThreadEvent, ThreadOptions } from './control.ts'
import { Dispatcher } from './dispatcher.ts'
import { OperationError } from './operations.ts'
import { loadPolicy } from './policies.ts'

if (parentPort === null) throw new Error('this file runs as a worker')
const port = parentPort
const options = workerData as ThreadOptions
const post = (event: ThreadEvent) => port.postMessage(event)

const dispatcher = new Dispatcher(options, await loadPolicy(options.policy), post)

const server = createServer({ noDelay: true }, socket => dispatcher.attach(socket))
server.on('error', (error: NodeJS.ErrnoException) => {
  const reason = error.code === 'EADDRINUSE' ? 'in use: another server listens there' : error.message
  post({ event: 'failed', message: `cannot listen on ${options.listen}: ${reason}` })
})
const tcp = /^(.*):(\d+)$/.exec(options.listen)
const address = tcp ? { host: tcp[1], port: Number(tcp[2]) } : { path: options.listen }
server.listen(address, () => post({ event: 'listening' }))

port.on('message', ({ id, operation, args }: ThreadCommand) => {
  try {
    post({ event: 'result', id, value: dispatcher.operate(operation, args) })
  } catch (error) {
    const failure = error instanceof OperationError ? { failure: error.failure } : {}
    post({ event: 'result', id, error: (error as Error).message, ...failure })
  }
})
