// SPDX-License-Identifier: Apache-2.0
/** How a server's container runs QEMU in the one next door; QEMU is a script here, as only its life matters. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'

const program = (name: string) => fileURLToPath(new URL(`../../../docker/${name}`, import.meta.url))

let folder: string
let runner: ChildProcess
const env = () => ({ ...process.env, TMPDIR: join(folder, 'run'), PATH: `${folder}:${process.env.PATH}` })

beforeEach(async () => {
  folder = privateFolder(tmpdir(), 'remote-')
  mkdirSync(join(folder, 'run'))
  const qemu = join(folder, 'qemu-system-aarch64')
  writeFileSync(
    qemu,
    '#!/bin/sh\necho "args $*"\ncase "$1" in end) exit 7;; ram) printf guest >&3; exit;; esac\nexec sleep 1000\n',
  )
  chmodSync(qemu, 0o755)
  // A process group of its own: the runner ends with all of it.
  runner = spawn('bash', [program('qemu-runner')], { env: env(), stdio: 'ignore', detached: true })
  await expect.poll(() => existsSync(join(folder, 'run', 'qemu-runner.alive'))).toBe(true)
})
afterEach(async () => {
  if (runner.exitCode === null && runner.signalCode === null) {
    runner.kill('SIGTERM')
    await once(runner, 'exit')
  }
  rmSync(folder, { recursive: true })
})

function remote(...args: string[]) {
  const child = spawn('bash', [program('qemu-remote'), ...args], { env: env(), stdio: ['pipe', 'pipe', 'pipe'] })
  return { child, out: text(child.stdout), err: text(child.stderr), exit: once(child, 'exit') }
}

test('arguments, output and exit code are QEMU’s', async () => {
  const { out, exit } = remote('end', 'two words')
  expect(await exit).toEqual([7, null])
  expect(await out).toBe('args end two words\n')
})

describe('guest RAM that QEMU inherits', () => {
  const start = (fd: number) =>
    spawn('bash', [program('qemu-remote'), 'ram'], { env: env(), stdio: ['ignore', 'ignore', 'pipe', fd] })

  test('is the same file there', async () => {
    const path = join(folder, 'ram')
    const fd = openSync(path, 'wx+')
    const child = start(fd)
    expect(await once(child, 'exit')).toEqual([0, null])
    closeSync(fd)
    expect(readFileSync(path, 'utf8')).toBe('guest')
  })

  test('is no other file when it cannot be had', async () => {
    const path = join(folder, 'ram')
    const fd = openSync(path, 'wx+')
    rmSync(path)
    const child = start(fd)
    closeSync(fd)
    const err = child.stderr && text(child.stderr)
    expect((await once(child, 'exit'))[0]).toBe(1)
    expect(await err).toMatch(/^qemu-remote: guest RAM has no name that the container 'qemu' could open it by/)
  })
})

test('a signal ends it', async () => {
  const { child, exit } = remote('stay')
  await once(child.stdout, 'data')
  child.kill('SIGTERM')
  expect((await exit)[0]).toBe(143)
})

test('when the container of QEMU stops, nobody waits for ever', async () => {
  const { child, err, exit } = remote('stay')
  await once(child.stdout, 'data')
  runner.kill('SIGTERM')
  expect((await exit)[0]).toBe(1)
  expect(await err).toMatch(/the container 'qemu' has stopped/)
})

test('what a server that was killed has left is removed, and nothing of one that lives', async () => {
  const dead = join(folder, 'run', 'smmu-cosim.1-dead')
  const living = join(folder, 'run', 'smmu-cosim.2-living')
  for (const path of [living, dead]) {
    mkdirSync(path)
    writeFileSync(join(path, 'ram'), 'guest')
  }
  const holder = spawn('flock', ['--no-fork', join(living, '.lock'), 'cat'], { stdio: ['pipe', 'pipe', 'ignore'] })
  holder.stdin.write('locked\n')
  await once(holder.stdout, 'data')
  writeFileSync(join(dead, '.lock'), '')
  await expect.poll(() => existsSync(dead)).toBe(false)
  expect(existsSync(join(living, 'ram'))).toBe(true)
  holder.stdin.end()
  await expect.poll(() => existsSync(living)).toBe(false)
})

test('of one that was killed before it asked for QEMU, nothing is left', async () => {
  const left = join(folder, 'run', 'qemu.killed')
  mkdirSync(left)
  await sleep(1_000)
  expect(existsSync(left)).toBe(true)
  await expect.poll(() => existsSync(left)).toBe(false)
})

test('of one that asked for QEMU and was killed, nothing is left', async () => {
  const { child } = remote('sleeps')
  await expect.poll(() => readdirSync(join(folder, 'run')).some(name => name.startsWith('qemu.'))).toBe(true)
  child.kill('SIGKILL')
  await expect.poll(() => readdirSync(join(folder, 'run')).filter(name => name.startsWith('qemu.'))).toEqual([])
})
