// SPDX-License-Identifier: Apache-2.0
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, fstatSync, ftruncateSync, readSync, rmSync, writeSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { permissions } from '../../../server/cli/confine.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import {
  detach,
  map,
  memoryFile,
  sealSize,
  sendDescriptor,
  sharedFile,
  unmap,
  view,
} from '../../../server/machine/sharedMemory.ts'

const SIZE = 1 << 20

test('what is written to the file is in the mapping, and the other way round', () => {
  const file = sharedFile('test', SIZE)
  const bytes = Buffer.from(view(file))
  expect([bytes.length, fstatSync(file.fd).size]).toEqual([SIZE, SIZE])
  writeSync(file.fd, Buffer.from('from the file'), 0, 13, SIZE - 13)
  expect(bytes.toString('latin1', SIZE - 13)).toBe('from the file')
  bytes.write('from memory', 4096)
  const read = Buffer.alloc(11)
  readSync(file.fd, read, 0, 11, 4096)
  expect(read.toString()).toBe('from memory')
  closeSync(file.fd)
  // The mapping holds the file.
  expect(bytes.toString('latin1', 4096, 4107)).toBe('from memory')
  detach(bytes.buffer as ArrayBuffer)
  expect([bytes.length, bytes.buffer.byteLength]).toEqual([0, 0])
  unmap(file)
})

test('a sealed file keeps its size', () => {
  const { fd, ...mapping } = sharedFile('test', SIZE)
  for (const size of [0, SIZE - 1, SIZE + 1]) {
    expect(() => ftruncateSync(fd, size)).toThrow(expect.objectContaining({ code: 'EPERM' }))
  }
  closeSync(fd)
  unmap(mapping)
})

test('what fails has the name of its error', () => {
  const fd = memoryFile('test')
  expect(() => map(fd, 0)).toThrow('mmap: EINVAL, invalid argument')
  expect(() => map(fd, 2 ** 50)).toThrow('mmap: ENOMEM, not enough memory')
  closeSync(fd)
  expect(() => map(fd, 4096)).toThrow('mmap: EBADF, bad file descriptor')
  expect(() => sealSize(fd)).toThrow('F_ADD_SEALS: EBADF, bad file descriptor')
  expect(() => sendDescriptor(fd, Buffer.alloc(1), 0)).toThrow('sendmsg: EBADF, bad file descriptor')
})

/** Takes a descriptor in another program, as it is in no two of one language: Python's socket module. */
const RECEIVER = `
import socket, sys, os, mmap
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
data, fds, flags, _ = socket.recv_fds(s, 100, 4)
m = mmap.mmap(fds[0], os.fstat(fds[0]).st_size)
m[10:14] = b'here'
print(data.hex(), len(fds), m[:5].decode(), flush=True)
s.recv(1)
`

test('a descriptor goes to another process with the bytes that it belongs to', async () => {
  const folder = privateFolder(tmpdir(), 'descriptor-')
  const server = createServer({ pauseOnConnect: true })
  try {
    server.listen(join(folder, 's'))
    const file = sharedFile('test', SIZE)
    const bytes = Buffer.from(view(file))
    bytes.write('there')
    const child = spawn('python3', ['-c', RECEIVER, join(folder, 's')], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [socket] = (await once(server, 'connection')) as [Socket]
    const { _handle: handle } = socket as unknown as { _handle: { fd: number } }
    expect(sendDescriptor(handle.fd, Buffer.from([1, 2, 3]).subarray(1), file.fd)).toBe(2)
    closeSync(file.fd)
    let said = ''
    for await (const piece of child.stdout.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
      said += piece
      if (said.endsWith('\n')) break
    }
    expect(said).toBe('0203 1 there\n')
    expect(bytes.toString('latin1', 10, 14)).toBe('here')
    socket.destroy()
    await once(child, 'exit')
    unmap(file)
  } finally {
    server.close()
    rmSync(folder, { recursive: true })
  }
})

const MODULE = fileURLToPath(new URL('../../../server/machine/sharedMemory.ts', import.meta.url))
const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

/** Runs a script that has imported the module as `m`. */
function script(text: string, options: readonly string[] = []): { out: string; err: string } {
  const source = `import * as m from ${JSON.stringify(MODULE)}\n${text}`
  const run = spawnSync(process.execPath, [...options, '--input-type=module', '-e', source], { encoding: 'utf8' })
  return { out: run.stdout, err: run.stderr }
}

test('nothing is said of node:ffi, and everything else is', () => {
  const { out, err } = script(`
    console.log(m.sharedMemoryFault())
    process.emitWarning('FFI is mine', 'ExperimentalWarning')`)
  expect(out).toBe('undefined\n')
  expect(err.split('\n')[0]).toMatch(/ExperimentalWarning: FFI is mine$/)
})

test('where it may not be used, the reason is told', () => {
  const options = permissions([ROOT.replace(/\/$/, '')], []).filter(option => option !== '--allow-ffi')
  expect(script('console.log(m.sharedMemoryFault())', options).out).toBe('Node was not started with --allow-ffi\n')
})

test('a thread that gave it up makes and maps files, and looks at no address', () => {
  const { out, err } = script(
    `
    m.giveUpFfi()
    const file = m.sharedFile('test', 4096)
    console.log(process.permission.has('ffi'), file.size)
    for (const act of [
      () => m.view(file),
      () => m.map(file.fd, 0),
      () => process.getBuiltinModule('node:ffi').dlopen(null, { abort: { arguments: [], return: 'void' } }),
    ]) try { act(); console.log('done') } catch (error) { console.log(error.code) }
    m.unmap(file)
    console.log('unmapped')`,
    [...permissions([ROOT.replace(/\/$/, '')], []), '--allow-ffi'],
  )
  expect(err).toBe('')
  expect(out).toBe('false 4096\nERR_ACCESS_DENIED\nEINVAL\nERR_ACCESS_DENIED\nunmapped\n')
})

/** What the kernel says of a thread's turns: where it can be told, and does say it. */
const SCHED = '/proc/thread-self/sched'
const [major, minor] = release().split('.').map(Number)
const slices = (major > 6 || (major === 6 && minor >= 12)) && existsSync(SCHED)

test.runIf(slices)('a thread takes short turns, and keeps its priority', () => {
  const module = new URL('../../../server/machine/sharedMemory.ts', import.meta.url).href
  const source = `
    import { readFileSync } from 'node:fs'
    import { sharedMemoryFault, takeShortTurns } from '${module}'
    if (sharedMemoryFault() !== undefined) throw new Error(sharedMemoryFault())
    takeShortTurns()
    process.stdout.write(readFileSync('${SCHED}', 'latin1'))`
  const command = ['-n', '3', process.execPath, '--no-warnings', '--input-type=module', '-e', source]
  const { stdout, stderr } = spawnSync('nice', command, { encoding: 'latin1' })
  expect(stderr).toBe('')
  expect(stdout).toMatch(/^se[.]slice *: *100000$/m)
  expect(stdout).toMatch(/^prio *: *123$/m)
})
