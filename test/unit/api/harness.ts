// SPDX-License-Identifier: Apache-2.0

import { EventEmitter, once } from 'node:events'
import { closeSync, existsSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { createApp } from '../../../server/api/app.ts'
import { MachineManager } from '../../../server/api/machineManager.ts'
import type { Access } from '../../../server/api/security.ts'
import type { Subscriptions } from '../../../server/api/subscriptions.ts'
import type { Session, SessionEnd } from '../../../server/control/session.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { GuestConsole } from '../../../server/machine/console.ts'
import { Hotplug } from '../../../server/machine/hotplug.ts'
import type { Qmp } from '../../../server/machine/qmp.ts'
import { Counters, createCounters } from '../../../server/trace/counters.ts'
import { describeMachine } from '../../../server/trace/format.ts'
import { Pump } from '../../../server/trace/pump.ts'
import { Recorder } from '../../../server/trace/recorder.ts'
import { createRing } from '../../../server/trace/ring.ts'
import { header } from '../trace/synthetic.ts'
import { FakeQemu } from '../trap/fakeQemu.ts'

/** A server with a machine whose QEMU is a fake: everything but the guest is real. */
export interface Harness {
  readonly app: FastifyInstance
  readonly subscriptions: Subscriptions
  readonly manager: MachineManager
  readonly qemu: FakeQemu
  readonly url: string
  readonly port: number
  /** Puts bytes into the guest's RAM. @param address guest physical */
  poke(address: number, bytes: Uint8Array): void
  /** Text that the guest writes to its console. */
  say(text: string): void
  /** What was typed into the console. */
  typed(): string
  /** When this resolves, what the machine did, up to the last access that was answered, is counted and in the log. */
  settle(): Promise<void>
  /** Has the folder of runs, and campaigns.db beside it. */
  readonly folder: string
  /** QMP commands that were executed. */
  readonly qmp: readonly string[]
  close(): Promise<void>
}

const RAM_BASE = 0x4000_0000

export interface HarnessOptions {
  readonly access?: Access
  readonly ringBytes?: number
  /** QEMU answers to QMP, with the name of the command. */
  readonly qmp?: boolean
  /** A built-in one's name, or a file. */
  readonly policy?: string
  /** Folder of the built dashboard; absent: none is served. */
  readonly dashboard?: string
}

export async function startApp(options: HarnessOptions = {}): Promise<Harness> {
  const { access = { host: '127.0.0.1' }, ringBytes = 1 << 22, policy = 'passthrough', dashboard } = options
  const folder = mkdtempSync(join(tmpdir(), 'cosim-test-'))
  const ram = openSync(join(folder, 'ram'), 'wx+')
  ftruncateSync(ram, 1 << 20)
  const counters = createCounters()
  const ring = createRing(ringBytes)
  const thread = await TrapThread.start({
    listen: join(folder, 'trap'),
    policy,
    policyOptions: {},
    ramFile: ram,
    ring,
    counters,
    panicOnWarn: false,
  } as Parameters<typeof TrapThread.start>[0])
  const output = new PassThrough()
  const input = new PassThrough()
  let typed = ''
  input.on('data', chunk => {
    typed += chunk
  })
  let end: (value: SessionEnd) => void = () => {}
  const ended = new Promise<SessionEnd>(resolve => {
    end = resolve
  })
  const executed: string[] = []
  const qmp: EventEmitter & Pick<Qmp, 'execute'> = Object.assign(new EventEmitter(), {
    async execute(command: string, { id }: { readonly id?: string } = {}) {
      executed.push(command)
      // The guest lets go of everything.
      if (command === 'device_del')
        setImmediate(() => qmp.emit('event', { event: 'DEVICE_DELETED', data: { device: id } }))
      if (command === 'stop' || command === 'cont')
        setImmediate(() => qmp.emit('event', { event: command === 'stop' ? 'STOP' : 'RESUME', data: {} }))
      return command
    },
  })
  const pump = new Pump(ring)
  const recorder = await Recorder.open({ path: join(folder, 'trace'), header })
  pump.add(recorder)
  const session = Object.assign(new EventEmitter(), {
    console: new GuestConsole(output, join(folder, 'console.log')),
    qemu: {
      child: { stdin: input },
      stop: async () => end({ qemu: { code: 0, signal: null, asked: true }, qemuErrors: '', sections: {} }),
    },
    stop: async () => end({ qemu: { code: 0, signal: null, asked: true }, qemuErrors: '', sections: {} }),
    thread,
    counters: new Counters(counters),
    pump,
    recording: recorder,
    ram,
    hello: undefined,
    ended,
    hotplug: new Hotplug(async () => qmp as Qmp, folder, 1),
    lookAtDevices: () => {},
    reset: async () => void (await qmp.execute('system_reset')),
    openGdb: async (port?: number) => (port === undefined ? '/run/gdb' : `127.0.0.1:${port}`),
    qmp: () => (options.qmp ? Promise.resolve(qmp) : new Promise<never>(() => {})),
  })
  thread.on('connected', machine => {
    Object.assign(session, { hello: machine })
    recorder.describe(describeMachine(machine), () => thread.policy?.warnings)
    session.emit('connected', machine)
  })
  const manager = new MachineManager({ runsFolder: join(folder, 'runs') })
  manager.adopt(session as unknown as Session, { policy }, { version: 'none' })
  const { app, subscriptions } = await createApp({ manager, access, version: 'test', ...(dashboard && { dashboard }) })
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as AddressInfo
  const connected = once(thread, 'connected')
  const qemu = await FakeQemu.connect(join(folder, 'trap'))
  await qemu.hello()
  await connected
  await qemu.reset()
  return {
    app,
    subscriptions,
    manager,
    qemu,
    port,
    url: `http://127.0.0.1:${port}`,
    poke(address, bytes) {
      writeSync(ram, bytes, 0, bytes.length, address - RAM_BASE)
    },
    folder,
    say: text => void output.write(text),
    typed: () => typed,
    async settle() {
      await thread.call('held')
      pump.drain()
    },
    qmp: executed,
    async close() {
      qemu.socket.destroy()
      end({ qemu: { code: 0, signal: null, asked: true }, qemuErrors: '', sections: {} })
      await app.close()
      await thread.stop()
      pump.close()
      await recorder.close()
      if (existsSync(folder)) closeSync(ram)
      rmSync(folder, { recursive: true, force: true })
    },
  }
}
