// SPDX-License-Identifier: Apache-2.0
/** Guest RAM of a machine that the server starts: a descriptor that QEMU inherits. No guest runs; the tests write its RAM. */
import { readdirSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ensureQemu } from '../../scripts/setup/index.ts'
import { type SavedMachine, Session } from '../../server/control/session.ts'
import { INHERITED_RAM } from '../../server/machine/fileMemory.ts'
import { privateFolder, Scratch } from '../../server/machine/scratch.ts'
import { Qtest } from './qtest.ts'

const RAM = 0x4000_0000
/** Beyond the device tree and the kernel, which QEMU loads. */
const SPOT = 0x800_0000

let scratch: Scratch
let folder: string
let session: Session | undefined
let qtest: Qtest | undefined
beforeEach(() => {
  scratch = new Scratch()
  folder = privateFolder(tmpdir(), 'test-')
})
afterEach(async () => {
  await end()
  scratch.remove()
})

async function end(): Promise<void> {
  qtest?.close()
  await session?.stop()
  session = undefined
}

async function start(mapped: boolean, restore?: SavedMachine, binary?: string): Promise<Session> {
  const kernel = join(folder, 'kernel')
  writeFileSync(kernel, new Uint8Array(64))
  const path = join(scratch.sockets, 'qtest')
  session = await Session.start({
    scratch,
    mapped,
    runFolder: folder,
    ...(restore && { restore }),
    machine: {
      binary: binary ?? (await ensureQemu()),
      kernel,
      append: '',
      memory: '256M',
      smp: 1,
      network: false,
      sandbox: true,
      extra: ['-accel', 'qtest', '-qtest', `unix:${path},server=on,wait=off`],
    },
    policy: { name: 'passthrough', options: {}, panicOnWarn: false, carveout: '0' },
  })
  const ended = new AbortController()
  void session.ended.then(() => ended.abort())
  qtest = await Qtest.connect(path, AbortSignal.any([ended.signal, AbortSignal.timeout(30_000)]))
  return session
}

const word = (fd: number) => {
  const bytes = Buffer.alloc(8)
  readSync(fd, bytes, 0, 8, SPOT)
  return bytes.readBigUInt64LE()
}

test('a QEMU whose RAM is another file is not served', async () => {
  const real = await ensureQemu()
  const other = join(folder, 'other')
  const binary = join(folder, 'qemu')
  writeFileSync(binary, `#!/bin/sh\ntruncate -s 256M ${other}\nexec ${real} "$@" 3<>${other}\n`, { mode: 0o700 })
  // It may listen before it is refused.
  await start(true, undefined, binary).catch(() => {})
  const { serverError } = (await session?.ended) ?? {}
  expect(serverError).toBe(`guest RAM ${INHERITED_RAM}: it is not the memory that QEMU uses`)
})

describe.each([
  ['mapped', true],
  ['read and written by system calls', false],
])('%s', (_how, mapped) => {
  test('QEMU says so, the file has no name, and both ends see the same bytes', async () => {
    const { ram } = await start(mapped)
    await expect.poll(() => session?.hello?.ram.map(({ path }) => path)).toEqual([INHERITED_RAM])
    await expect.poll(() => readdirSync(scratch.ram)).not.toContain('ram')
    await qtest?.write(RAM + SPOT, 8, 0x0123_4567_89ab_cdefn)
    expect(word(ram)).toBe(0x0123_4567_89ab_cdefn)
    writeSync(ram, Buffer.from('hello'), 0, 5, SPOT + 0x1000)
    expect(String(await qtest?.readBytes(RAM + SPOT + 0x1000, 5))).toBe('hello')
  })

  test('a saved machine is loaded with it', async () => {
    const saved = { ram: join(folder, 'saved-ram'), devices: join(folder, 'saved-devices') }
    await start(mapped)
    await qtest?.write(RAM + SPOT, 8, 42)
    await session?.save(saved)
    await qtest?.write(RAM + SPOT, 8, 43)
    await end()
    const { ram } = await start(mapped, saved)
    expect(word(ram)).toBe(42n)
    expect(await qtest?.read(RAM + SPOT, 8)).toBe(42n)
  })
})
