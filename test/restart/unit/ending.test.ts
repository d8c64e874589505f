// SPDX-License-Identifier: Apache-2.0
/** A server is told to end, whatever its peer is doing. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { FakeQemu } from '../../unit/trap/fakeQemu.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))
/** Every process of a run ends so soon, in every state. */
const END_MS = 2_000

let folder: string
let server: ChildProcess | undefined
let qemu: FakeQemu | undefined
const socket = () => join(folder, 'trap')

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'ending-')
})
afterEach(() => {
  server?.kill('SIGKILL')
  qemu?.socket.destroy()
  qemu = undefined
  rmSync(folder, { recursive: true })
})

/** Starts `dev --listen`; resolves when it listens. */
async function listen(source?: string, more: readonly string[] = []): Promise<void> {
  const file = join(folder, 'policy.ts')
  if (source !== undefined) writeFileSync(file, source)
  const args = ['dev', '--listen', socket(), '--policy', source === undefined ? 'passthrough' : file, ...more]
  server = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  server.stderr?.setEncoding('utf8').on('data', text => {
    errors += text
  })
  await expect.poll(() => errors).toContain('listening on')
}

async function machine(): Promise<FakeQemu> {
  qemu = await FakeQemu.connect(socket())
  expect(await qemu.hello()).toMatchObject({ type: Id.welcome })
  await qemu.reset()
  return qemu
}

const writes = 'machine.memory.write(0x4000_0000, Buffer.alloc(1 << 20), 0, 1 << 20)'
const policy = (access: string) =>
  `export default machine => ({ name: 'mine', reset() {}, access(trap) { ${access} } })`

test.each<[string, string | undefined, () => Promise<unknown>]>([
  ['nobody is connected', undefined, async () => {}],
  ['a peer says nothing', undefined, () => once(connect(socket()), 'connect')],
  ['a machine does nothing', undefined, machine],
  [
    'a machine does not answer',
    undefined,
    async () => {
      const stopped = await machine()
      stopped.serves = false
      stopped.read(0x20, 4).catch(() => {})
    },
  ],
  [
    'a machine does not answer before it is welcome',
    `export default machine => { machine.smmus[0].hardware.read(0, 4, { lo: 0, hi: 0 }); return { name: 'mine', reset() {}, access() {} } }`,
    async () => {
      qemu = await FakeQemu.connect(socket())
      qemu.serves = false
      qemu.hello().catch(() => {})
    },
  ],
  [
    'a machine reads nothing',
    policy(writes),
    async () => {
      const stopped = await machine()
      stopped.socket.pause()
      stopped.read(0x20, 4).catch(() => {})
    },
  ],
  [
    'its policy loops',
    policy('for (;;);'),
    async () => {
      const waiting = await machine()
      waiting.read(0x20, 4).catch(() => {})
    },
  ],
  [
    'new code loops while it is loaded',
    policy(''),
    async () => {
      await machine()
      writeFileSync(join(folder, 'policy.ts'), 'for (;;);')
      // It has been noticed, and is being loaded.
      await sleep(1_500)
    },
  ],
])('SIGTERM ends it within 2 s: %s', async (_name, source, state) => {
  await listen(source)
  await endsInTime(state)
})

test('SIGTERM ends it within 2 s: a peer owes the proof that it knows the token', async () => {
  const file = join(folder, 'token')
  writeFileSync(file, '5f0b6d1c9a874e23b1d0c4f8e6a79235', { mode: 0o600 })
  await listen(undefined, ['--token-file', file])
  await endsInTime(async () => {
    qemu = await FakeQemu.connect(socket())
    qemu.token = Buffer.from('5f0b6d1c9a874e23b1d0c4f8e6a79235')
    qemu.prove = () => null
    qemu.hello().catch(() => {})
  })
})

async function endsInTime(state: () => Promise<unknown>): Promise<void> {
  await state()
  // Whatever is to come of it has come.
  await sleep(300)
  const start = performance.now()
  const ended = once(server as ChildProcess, 'exit')
  server?.kill('SIGTERM')
  expect(await ended).toEqual([0, null])
  expect(performance.now() - start).toBeLessThan(END_MS)
  expect(existsSync(socket())).toBe(false)
}
