// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { tmpdir } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { TranslateMode, TranslateReport } from '../../server/translate/translator.ts'
import type { El2Report } from '../../server/trap/el2Oracle.ts'
import type { Sections, ThreadEvent } from '../../server/trap/messages.ts'

/** Compiled modules, for all of this test's processes. */
const CACHE = privateFolder(tmpdir(), 'modules-')
const RUNNER = fileURLToPath(new URL('./runner.ts', import.meta.url))

/** What a server process prints. */
type RunnerEvent = ThreadEvent | { readonly event: 'ready'; readonly args: readonly [] }

/** One server process. */
class Runner extends EventEmitter<{ event: [RunnerEvent] }> {
  readonly child: ChildProcess
  readonly ready: Promise<unknown>
  /** Whether it came to have a machine, and to answer a trap. */
  readonly connected: Promise<boolean>
  readonly answered: Promise<boolean>
  readonly ended: Promise<unknown>
  errors = ''

  constructor(args: readonly string[]) {
    super()
    // A hundred processes load the same modules.
    const env = { ...process.env, NODE_COMPILE_CACHE: CACHE }
    this.child = spawn(process.execPath, [RUNNER, ...args], { stdio: ['pipe', 'pipe', 'pipe'], env })
    const { stdin, stdout, stderr } = this.child
    if (stdin === null || stdout === null || stderr === null) throw new Error('no pipes')
    stdin.on('error', () => {})
    stderr.setEncoding('utf8').on('data', text => {
      this.errors += text
    })
    this.ended = once(this.child, 'close')
    createInterface(stdout).on('line', line => this.emit('event', JSON.parse(line) as RunnerEvent))
    this.ready = this.#first('ready')
    this.connected = this.#first('connected')
    this.answered = this.#first('firstTrap')
  }

  /** Resolves with whether there was an event of that name before the process ended. */
  #first(name: RunnerEvent['event']): Promise<boolean> {
    return new Promise(resolve => {
      this.on('event', ({ event }) => event === name && resolve(true))
      void this.ended.then(() => resolve(false))
    })
  }

  go(): void {
    this.child.stdin?.write('go\n')
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL')
    await this.ended
  }
}

export interface ServersOptions {
  readonly socket: string
  readonly ramFolder: string
  readonly policy?: string
  readonly policyOptions?: Readonly<Record<string, unknown>>
  readonly translate?: TranslateMode
}

/** A server that is killed again and again, each time with a successor at hand. */
export class Servers {
  readonly #args: readonly string[]
  #current: Runner
  #next: Runner
  /** What happened, of all processes. */
  readonly events: RunnerEvent[] = []
  kills = 0

  constructor({ socket, ramFolder, policy = 'pkvm', policyOptions = {}, translate = 'hardware' }: ServersOptions) {
    this.#args = [socket, ramFolder, policy, JSON.stringify(policyOptions), translate]
    this.#current = this.#spawn()
    this.#next = this.#spawn()
  }

  #spawn(): Runner {
    const runner = new Runner(this.#args)
    runner.on('event', event => this.events.push(event))
    return runner
  }

  async start(): Promise<void> {
    await this.#current.ready
    this.#current.go()
  }

  /** Until the present server has answered a trap; false when it ends before. */
  answered(): Promise<boolean> {
    return this.#current.answered
  }

  /** Until the present server has a machine; false when it ends before. */
  connected(): Promise<boolean> {
    return this.#current.connected
  }

  /** To the present server: SIGSTOP, SIGCONT. */
  signal(signal: NodeJS.Signals): void {
    this.#current.child.kill(signal)
  }

  /** The present server has ended by itself: `true`. */
  get ended(): boolean {
    return this.#current.child.exitCode !== null || this.#current.child.signalCode !== null
  }

  /** Kills the server with SIGKILL, wherever it is, and lets the next one take its place. */
  async replace(): Promise<void> {
    await this.#current.kill()
    this.kills++
    await this.#next.ready
    this.#current = this.#next
    this.#current.go()
    this.#next = this.#spawn()
  }

  /** What the servers said that should not be: exceptions, refusals, machines that were lost. */
  get complaints(): string[] {
    const bad = this.events.flatMap(({ event, args }) => {
      if (event === 'refused' || event === 'turnedAway' || event === 'lost') return [args[0]]
      if (event !== 'disconnected') return []
      const [message, , fault] = args
      return fault ? [message] : []
    })
    return [...bad, this.#current.errors].filter(text => text !== '')
  }

  /** The report of translations in what QEMU's end left. */
  get translations(): TranslateReport | undefined {
    return this.sections?.translate as TranslateReport | undefined
  }

  /** What EL2's tables and the SMMU's said at QEMU's end. */
  get el2(): El2Report | undefined {
    return this.sections?.el2 as El2Report | undefined
  }

  /** The report's sections, when QEMU has ended. */
  get sections(): Sections | undefined {
    for (const { event, args } of this.events) if (event === 'shutdown') return args[1]
    return undefined
  }

  async stop(): Promise<void> {
    await Promise.all([this.#current.kill(), this.#next.kill()])
  }
}
