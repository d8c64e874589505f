// SPDX-License-Identifier: Apache-2.0
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, ftruncateSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { TrapThread } from '../../server/control/trapThread.ts'
import { Qmp } from '../../server/machine/qmp.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { Counters, createCounters } from '../../server/trace/counters.ts'
import { createRing, RingReader } from '../../server/trace/ring.ts'
import type { TranslateMode } from '../../server/translate/translator.ts'
import type { ThreadOptions } from '../../server/trap/messages.ts'
import { transport } from '../transport.ts'
import { Qtest } from './qtest.ts'

/** The virt machine's SMMU frame and RAM. */
export const SMMU = 0x0905_0000
export const RAM = 0x4000_0000

export interface QtestOptions {
  /** Path that QEMU's smmu-cosim object connects to; null: no such object, QEMU as it always was. */
  readonly socket?: string | null
  /** `host:port` that the object connects to instead. */
  readonly addr?: string
  /** Further properties of the object. */
  readonly properties?: readonly string[]
  readonly args?: readonly string[]
  /** Objects that the object's properties name. */
  readonly objects?: readonly string[]
  readonly memoryMiB?: number
  /** tcg: a guest runs, as well as the test's accesses. */
  readonly accel?: 'qtest' | 'tcg'
  /** Absent: the one that set-up makes. */
  readonly binary?: string
}

/** The real QEMU without a kernel: every access is the test's. */
export class QtestMachine {
  readonly folder = privateFolder(tmpdir(), 'qtest-')
  readonly socket = join(this.folder, 'trap')
  readonly ramFile: string
  errors = ''
  #child: ChildProcess | undefined
  #qtest: Qtest | undefined
  thread: TrapThread | undefined
  counters: Counters | undefined
  ring: RingReader | undefined
  readonly #qmp = join(this.folder, 'qmp')
  readonly #ramFolder = privateFolder('/dev/shm', 'qtest-')

  constructor() {
    this.ramFile = join(this.#ramFolder, 'ram')
  }

  get qtest(): Qtest {
    if (this.#qtest === undefined) throw new Error('QEMU is not started')
    return this.#qtest
  }

  get server(): TrapThread {
    if (this.thread === undefined) throw new Error('there is no server')
    return this.thread
  }

  /** Starts the trap thread; QEMU connects to it. */
  async serve(
    policy: string,
    policyOptions: Readonly<Record<string, unknown>> = {},
    ramFile = this.ramFile,
    translate: TranslateMode = 'hardware',
    oracle = false,
    more: Partial<ThreadOptions> = {},
  ): Promise<TrapThread> {
    const ring = createRing()
    const counters = createCounters()
    this.ring = new RingReader(ring)
    this.counters = new Counters(counters)
    this.thread = await TrapThread.start({
      listen: this.socket,
      policy,
      policyOptions,
      ramFile,
      ring,
      counters,
      panicOnWarn: false,
      translate,
      oracle,
      transport: transport(),
      ...more,
    })
    return this.thread
  }

  /** Spawns QEMU; resolves when qtest answers. Rejects with QEMU's own words when it ends instead. */
  async start({
    socket = this.socket,
    addr,
    properties = [],
    args = [],
    objects = [],
    memoryMiB = 256,
    accel = 'qtest',
    binary,
  }: QtestOptions = {}): Promise<void> {
    const fd = openSync(this.ramFile, 'a+', 0o600)
    ftruncateSync(fd, memoryMiB << 20)
    closeSync(fd)
    const path = join(this.folder, 'qtest')
    const server = addr === undefined ? `path=${socket}` : `addr=${addr}`
    const object = ['smmu-cosim', 'id=cosim', server, ...properties].join(',')
    // A test run that is killed takes its QEMU with it.
    this.#child = spawn(
      'setpriv',
      [
        ['--pdeathsig', 'KILL', binary ?? (await ensureQemu())],
        ['-nodefaults', '-display', 'none', '-accel', accel, '-qtest', `unix:${path},server=on,wait=off`],
        ['-machine', 'virt,iommu=smmuv3,gic-version=3,memory-backend=ram', '-cpu', 'cortex-a57', '-m', `${memoryMiB}M`],
        ['-qmp', `unix:${this.#qmp},server=on,wait=off`],
        ['-object', `memory-backend-file,id=ram,mem-path=${this.ramFile},size=${memoryMiB}M,share=on`],
        objects.flatMap(text => ['-object', text]),
        ...(socket === null ? [] : [['-object', object, '-global', 'arm-smmuv3.cosim=cosim']]),
        args,
      ].flat(),
      { stdio: ['ignore', 'ignore', 'pipe'] },
    )
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    const giveUp = new AbortController()
    const ended = this.exit().then(code => {
      giveUp.abort()
      throw new Error(`QEMU ended with ${code}: ${this.errors}`)
    })
    this.#qtest = await Promise.race([Qtest.connect(path, giveUp.signal), ended])
    ended.catch(() => {})
    // QEMU answers qtest only when machine and handshake are done.
    await Promise.race([this.qtest.command('endianness').catch(() => ended), ended])
  }

  /** To be closed before the next one. */
  qmp(): Promise<Qmp> {
    return Qmp.connect(this.#qmp, AbortSignal.timeout(10_000))
  }

  /** Resets the machine as a guest's reboot would; resolves when the server has handled it. */
  async reset(): Promise<void> {
    const done = once(this.server, 'reset')
    await this.systemReset()
    await done
  }

  /** QEMU's process id. */
  get pid(): number {
    if (this.#child?.pid === undefined) throw new Error('QEMU is not started')
    return this.#child.pid
  }

  /** Asks QEMU for a reset. */
  async systemReset(): Promise<void> {
    const qmp = await this.qmp()
    await qmp.execute('system_reset')
    qmp.close()
  }

  /** QEMU's exit code, or the signal that ended it, once it ends. */
  async exit(): Promise<number | string> {
    const child = this.#child
    if (child === undefined) throw new Error('QEMU is not started')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
    return child.exitCode ?? child.signalCode ?? 'nothing'
  }

  kill(signal: NodeJS.Signals): void {
    this.#child?.kill(signal)
  }

  async dispose(): Promise<void> {
    this.#qtest?.close()
    if (this.#child !== undefined) {
      this.kill('SIGKILL')
      await this.exit()
    }
    await this.thread?.stop()
    for (const folder of [this.folder, this.#ramFolder]) rmSync(folder, { recursive: true, force: true })
  }
}
