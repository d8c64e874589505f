// SPDX-License-Identifier: Apache-2.0
/** A machine that is told to end breaks off its connection before its process is gone: in whatever it was doing. */
import { chmodSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Session, type SessionEnd } from '../../../server/control/session.ts'
import { privateFolder, Scratch } from '../../../server/machine/scratch.ts'
import { machineFailure } from '../../../server/run/outcome.ts'

const FAKE = fileURLToPath(new URL('../trap/fakeQemu.ts', import.meta.url))

let folder: string
let scratch: Scratch
let session: Session
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'session-')
  scratch = new Scratch()
})
afterEach(async () => {
  await session.stop()
  scratch.remove()
  rmSync(folder, { recursive: true })
})

/** A QEMU that is welcome, does `next` with the server as `qemu`, and ends some time after it has broken off the connection. */
async function start(next: string): Promise<void> {
  const binary = join(folder, 'qemu.mjs')
  const lines = [
    `#!${process.execPath}`,
    `import { FakeQemu } from '${FAKE}'`,
    'const object = process.argv.find(word => word.startsWith("smmu-cosim,"))',
    'const qemu = await FakeQemu.connect(/path=([^,]*)/.exec(object)[1])',
    'process.on("SIGTERM", () => { qemu.socket.destroy(); setTimeout(() => process.exit(0), 300) })',
    'setInterval(() => {}, 1_000)',
    'await qemu.hello()',
    next,
  ]
  writeFileSync(binary, `${lines.join('\n')}\n`)
  chmodSync(binary, 0o700)
  session = await Session.start({
    scratch,
    runFolder: folder,
    machine: { binary, kernel: '', append: '', memory: '256M', smp: 1, network: false, sandbox: false, extra: [] },
    policy: { name: 'passthrough', options: {}, panicOnWarn: false, carveout: '0' },
  })
  if (session.hello === undefined) await new Promise(resolve => session.once('connected', resolve))
}

const failure = (end: SessionEnd) => machineFailure(end)

test('while a trap is held', async () => {
  await start('await new Promise(resolve => setTimeout(resolve, 300)); qemu.read(0, 4).catch(() => {})')
  const held = new Promise(resolve => session.thread?.once('held', resolve))
  await session.thread?.call('breakNext', true)
  await held
  await session.stop()
  expect(failure(await session.ended)).toBeUndefined()
})

test('while the server waits for what it asked', async () => {
  await start('qemu.serves = false; qemu.read(0, 4).catch(() => {})')
  await session.stop()
  expect(failure(await session.ended)).toBeUndefined()
})

test('but one that breaks off unasked has lost its server', async () => {
  await start('setTimeout(() => qemu.socket.destroy(), 100)')
  expect(failure(await session.ended)).toMatchObject({
    outcome: 'server-died',
    message: expect.stringContaining('QEMU closed the connection'),
  })
})

test.each(['SIGSEGV', 'SIGKILL'])(
  'one that is ended by %s has nobody else to blame, whoever notices first',
  async signal => {
    await start(`setTimeout(() => process.kill(process.pid, '${signal}'), 100)`)
    expect(failure(await session.ended)).toEqual({
      outcome: 'qemu-died',
      message: `QEMU ended with ${signal}: no message`,
    })
  },
)

test('and so does one that a shell has waited for', async () => {
  await start('setTimeout(() => { qemu.socket.destroy(); process.exit(139) }, 100)')
  expect(failure(await session.ended)).toMatchObject({
    outcome: 'qemu-died',
    message: expect.stringContaining('exit code 139'),
  })
})
