// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { tmpdir } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { privateFolder } from '../../server/machine/scratch.ts'
import type { TranslateMode, TranslateReport } from '../../server/translate/translator.ts'
import type { El2Report } from '../../server/trap/el2Oracle.ts'
import type { ThreadEvent } from '../../server/trap/messages.ts'

/** Compiled modules, for all of this test's processes. */
const CACHE = privateFolder(tmpdir(), 'modules-')
const RUNNER = fileURLToPath(new URL('./runner.ts', import.meta.url))

/** What a server process prints. */
type RunnerEvent = ThreadEvent | { readonly event: 'ready'; readonly args: readonly [] }

/** One server process. */
class Runner extends EventEmitter<{ event: [RunnerEvent] }> {
  readonly child: ChildProcess
  readonly ready: Promise<unknown>
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
    this.ready = this.next('ready')
  }

  /** Resolves with the next event of that name, or undefined when the process ends before. */
  async next(name: RunnerEvent['event']): Promise<RunnerEvent | undefined> {
    return new Promise(resolve => {
      const listen = (event: RunnerEvent) => {
        if (event.event !== name) return
        this.off('event', listen)
        resolve(event)
      }
      this.on('event', listen)
      void this.ended.then(() => resolve(undefined))
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
  async answered(): Promise<boolean> {
    return (await this.#current.next('firstTrap')) !== undefined
  }

  /** Until the present server has a machine; false when it ends before. */
  async connected(): Promise<boolean> {
    return (await this.#current.next('connected')) !== undefined
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
    return this.#section('translate') as TranslateReport | undefined
  }

  /** What EL2's tables and the SMMU's said at QEMU's end. */
  get el2(): El2Report | undefined {
    return this.#section('el2') as El2Report | undefined
  }

  #section(name: string): unknown {
    for (const { event, args } of this.events) if (event === 'shutdown') return args[1][name]
    return undefined
  }

  async stop(): Promise<void> {
    await Promise.all([this.#current.kill(), this.#next.kill()])
  }
}
