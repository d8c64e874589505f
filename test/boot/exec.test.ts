// SPDX-License-Identifier: Apache-2.0
/** A command in the guest, a folder of the host's in it, and an initramfs of one's own. */
import { mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cachePath, entries } from '../../scripts/setup/cache.ts'
import { type CpioEntry, writeCpio } from '../../scripts/setup/cpio.ts'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim, leftovers } from './cli.ts'

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'exec-test-')
})
afterAll(() => rmSync(folder, { recursive: true }))

test('a command: its output, its errors, its exit code, and a folder that it writes to', async () => {
  const share = join(folder, 'rw')
  mkdirSync(share)
  writeFileSync(join(share, 'in'), 'from the host\n')
  const script = [
    'cat in',
    'uname -m',
    'echo to stderr >&2',
    'echo made in the guest >out; chmod 4755 out',
    // Every byte value, and more than fits into any buffer on the way.
    'head -c 200000 /dev/urandom >bytes; cat bytes',
    'exit 3',
  ].join('; ')
  const { code, stdout, stderr, report, said, pid } = await cosim(['boot', '--share', `${share}:rw`, '--exec', script])
  expect(code, said).toBe(3)
  expect(report).toMatchObject({ outcome: 'guest-failed', message: 'the command ended with exit code 3' })
  expect(report?.exec).toEqual({ command: script, code: 3 })
  const head = 'from the host\naarch64\n'
  expect(stdout.slice(0, head.length)).toBe(head)
  const bytes = readFileSync(join(share, 'bytes'))
  expect(bytes.length).toBe(200_000)
  expect(Buffer.from(stdout.slice(head.length), 'latin1').equals(bytes)).toBe(true)
  expect(stderr).toMatch(/^to stderr$/m)
  expect(readFileSync(join(share, 'out'), 'utf8')).toBe('made in the guest\n')
  // What the guest says of modes does not hold here.
  expect(statSync(join(share, 'out')).mode & 0o7777).toBe(0o644)
  // It came through the SMMU.
  const streams = report?.streams as readonly { device: string; shadowConfig: string }[] | undefined
  expect(streams?.find(({ device }) => device === 'share-9p')?.shadowConfig).toBe('nested')
  expect(report?.isolated).toBe(true)
  expect(leftovers(pid)).toEqual([])
})

test('a folder to be read is just that folder; and a kernel panic is what the summary leads with', async () => {
  const share = join(folder, 'ro')
  mkdirSync(share)
  writeFileSync(join(folder, 'secret'), 'not shared')
  writeFileSync(join(share, 'here'), 'shared')
  symlinkSync('../secret', join(share, 'up'))
  symlinkSync(join(folder, 'secret'), join(share, 'absolute'))
  const script = [
    'cat here',
    'cat up || echo no up',
    'cat absolute || echo no absolute',
    'cat ../secret || echo no parent',
    'touch new || echo no new',
    'sleep 1; echo c >/proc/sysrq-trigger',
  ].join('; ')
  const { code, stdout, stderr, report, said } = await cosim(['boot', '--share', share, '--exec', script])
  expect(stdout, said).toBe('sharedno up\nno absolute\nno parent\nno new\n')
  expect(code).toBe(1)
  expect(report).toMatchObject({ outcome: 'guest-failed', message: 'kernel panic: sysrq triggered crash' })
  expect(report?.exec?.code).toBeNull()
  expect(stderr).toMatch(/^smmu-cosim: guest-failed: kernel panic: sysrq triggered crash$/m)
})

/** An initramfs with busybox and this script. */
async function initramfs(name: string, script: string): Promise<string> {
  const version = (await entries(cachePath('busybox'))).at(-1) ?? ''
  const files: CpioEntry[] = [
    { path: 'bin/busybox', type: 'file', mode: 0o755, content: readFileSync(cachePath('busybox', version, 'busybox')) },
    { path: 'dev/console', type: 'character-device', mode: 0o600, major: 5, minor: 1 },
    { path: 'init', type: 'file', mode: 0o755, content: Buffer.from(`#!/bin/busybox sh\n${script}\n`) },
  ]
  const path = join(folder, name)
  writeFileSync(path, writeCpio(files))
  return path
}

test.each([
  ['that powers off is ok, whatever it did', 'busybox echo mine; busybox poweroff -f', 0, 'ok', undefined],
  ['whose init ends panics', 'exit 1', 1, 'guest-failed', 'kernel panic: Attempted to kill init! exitcode=0x00000100'],
])('an initramfs of one’s own %s', async (name, script, exit, outcome, message) => {
  const initrd = await initramfs(name, script.replaceAll('busybox ', '/bin/busybox '))
  const { code, report, stderr, said } = await cosim(['boot', '--initrd', initrd])
  expect(report?.outcome, said).toBe(outcome)
  expect(report?.message).toBe(message)
  expect(code).toBe(exit)
  expect(report?.initrd).toBe(initrd)
  expect(stderr).not.toContain('userspace never reached')
})
