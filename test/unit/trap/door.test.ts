// SPDX-License-Identifier: Apache-2.0
/** Who comes to the server's socket, and who is let in. */
import { execFile, execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Id } from '../../../protocol/generated/messages.ts'
import { enums } from '../../../protocol/messages.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { INHERITED_RAM } from '../../../server/machine/fileMemory.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing } from '../../../server/trace/ring.ts'
import type { ThreadOptions } from '../../../server/trap/messages.ts'
import { isLoopback, ownerOf } from '../../../server/trap/peer.ts'
import { openRamFile, RamFileRefused } from '../../../server/trap/ramFile.ts'
import { tokenMac } from '../../../server/trap/token.ts'
import { FakeQemu } from './fakeQemu.ts'

const RAM = 0x4000_0000
const MIB = 1 << 20
const TOKEN = Buffer.from('5f0b6d1c9a874e23b1d0c4f8e6a79235')
const NONCE = Buffer.alloc(32, 9)

let folder: string
const threads: TrapThread[] = []
const path = () => join(folder, 'trap')

beforeEach(() => {
  folder = privateFolder(tmpdir(), 'door-')
})
afterEach(async () => {
  for (const thread of threads.splice(0)) await thread.stop()
  rmSync(folder, { recursive: true })
})

async function start(more: Partial<ThreadOptions> = {}): Promise<TrapThread> {
  const thread = await TrapThread.start({
    listen: path(),
    policy: 'passthrough',
    policyOptions: {},
    ramFile: `${folder}/`,
    ring: createRing(1 << 16),
    counters: createCounters(),
    panicOnWarn: false,
    ...more,
  })
  threads.push(thread)
  return thread
}

/** A policy file. */
function policy(source: string): string {
  const file = join(folder, 'policy.ts')
  writeFileSync(file, source)
  return file
}

const told = (thread: TrapThread, event: 'refused' | 'turnedAway') =>
  once(thread, event, { signal: AbortSignal.timeout(30_000) }) as Promise<[string, boolean?]>

const welcome = async () => (await FakeQemu.connect(path())).hello()

describe('peers that are no machine', () => {
  test('however many are connected and say nothing, a machine is served', async () => {
    await start({ handshakeMs: 60_000 })
    const idle: Socket[] = []
    for (let i = 0; i < 40; i++) idle.push(connect(path()))
    await Promise.all(idle.map(socket => once(socket, 'connect')))
    expect(await welcome()).toMatchObject({ type: Id.welcome })
    for (const socket of idle) socket.destroy()
  })

  test('one that says nothing is sent away when its time is up; so is one that sends half a hello, byte by byte', async () => {
    const thread = await start({ handshakeMs: 200 })
    const away = told(thread, 'turnedAway')
    const silent = connect(path())
    await once(silent, 'connect')
    await Promise.all([once(silent.resume(), 'close'), away])
    expect((await away)[0]).toBe('a peer did not say hello within 200 ms')
    const slow = connect(path())
    slow.on('error', () => {})
    slow.write(Buffer.from([200, 0, 0, 0, 0xdc]))
    const drip = setInterval(() => slow.write(Buffer.from([0])), 20)
    await once(slow.resume(), 'close')
    clearInterval(drip)
    expect(await welcome()).toMatchObject({ type: Id.welcome })
  })

  test('one that breaks the protocol is told so', async () => {
    const thread = await start()
    const away = told(thread, 'turnedAway')
    const qemu = await FakeQemu.connect(path())
    await expect(qemu.read(0, 4)).rejects.toThrow('closed')
    expect(qemu.received).toMatchObject([{ type: Id.error, code: enums.error.state[0] }])
    expect((await away)[0]).toContain('not allowed')
    expect(await welcome()).toMatchObject({ type: Id.welcome })
  })

  test('one that comes and goes is nothing to tell', async () => {
    const thread = await start()
    let count = 0
    thread.on('turnedAway', () => count++)
    thread.on('refused', () => count++)
    const socket = connect(path())
    await once(socket, 'connect')
    socket.destroy()
    expect(await welcome()).toMatchObject({ type: Id.welcome })
    expect(count).toBe(0)
  })
})

describe('a machine that is not served', () => {
  const failing = `let times = 0
    export default () => {
      if (times++ === 0) throw new TypeError('not this one')
      return { name: 'picky', reset() {}, access() {} }
    }`

  test('because the policy throws: it is told why, its owner gets the stack, and the next one is served', async () => {
    const thread = await start({ policy: policy(failing) })
    let ended = 0
    thread.on('disconnected', () => ended++)
    thread.on('died', () => ended++)
    const refused = told(thread, 'refused')
    expect(await welcome()).toMatchObject({ type: Id.refuse, text: 'not this one' })
    expect((await refused)[0]).toMatch(/not this one[\s\S]*policy\.ts/)
    expect(await welcome()).toMatchObject({ type: Id.welcome })
    expect(ended).toBe(0)
  })

  test('because the policy throws, though it ran before: it is not told to end, and may come again', async () => {
    const thread = await start({ policy: policy(failing) })
    const refused = told(thread, 'refused')
    const qemu = await FakeQemu.connect(path())
    await expect(qemu.hello([1, 1], { resumed: 1, session: 'mine' })).rejects.toThrow('closed')
    expect(qemu.received).toEqual([])
    expect((await refused)[1]).toBe(true)
    expect(await welcome()).toMatchObject({ type: Id.welcome })
  })

  test('because it does not answer what it is asked before it is welcome', async () => {
    const asks = `export default machine => {
      machine.smmus[0].hardware.read(0, 4, { lo: 0, hi: 0 })
      return { name: 'asks', reset() {}, access() {} }
    }`
    const thread = await start({ policy: policy(asks), handshakeMs: 500 })
    const refused = told(thread, 'refused')
    const qemu = await FakeQemu.connect(path())
    qemu.serves = false
    await expect(qemu.hello()).rejects.toThrow('closed')
    expect((await refused)[0]).toBe('the peer did not answer in time')
    const next = await FakeQemu.connect(path())
    expect(await next.hello()).toMatchObject({ type: Id.welcome })
    // From now on, it may stand still.
    const reset = next.reset()
    await reset
    next.serves = false
    const late = next.read(0, 4)
    await sleep(1_000)
    next.serves = true
    expect(next.socket.destroyed).toBe(false)
    next.socket.destroy()
    await late.catch(() => {})
  })

  test('because its RAM is not what it says', async () => {
    await start()
    const file = join(folder, 'ram')
    writeFileSync(file, Buffer.alloc(MIB / 2))
    const qemu = await FakeQemu.connect(path())
    const ram = [{ base: RAM, size: MIB, path: file, offset: 0 }]
    expect(await qemu.hello([1, 1], { ram })).toMatchObject({
      type: Id.refuse,
      text: `guest RAM ${file}: it has 524288 bytes, the machine's RAM needs 1048576`,
    })
    truncateSync(file, MIB)
    const next = await FakeQemu.connect(path())
    next.ram = openSync(file, 'r')
    expect(await next.hello([1, 1], { ram })).toMatchObject({ type: Id.welcome })
    closeSync(next.ram)
  })

  test.each([
    ['at its end', 0],
    ['in hypervisor memory', 0x1_0000],
  ])('because the file is not the memory that it uses; and what was there is there again: %s', async (_name, size) => {
    await start()
    const file = join(folder, 'ram')
    const content = randomBytes(MIB)
    writeFileSync(file, content)
    const ram = [{ base: RAM, size: MIB, path: file, offset: 0 }]
    const machine = { ram, carveoutBase: RAM + MIB / 2, carveoutSize: size }
    const qemu = await FakeQemu.connect(path())
    content.copy(qemu.memory)
    expect(await qemu.hello([1, 1], machine)).toMatchObject({
      type: Id.refuse,
      text: `guest RAM ${file}: it is not the memory that QEMU uses`,
    })
    expect(readFileSync(file).equals(content)).toBe(true)
  })

  test('because its server finds another file where it had its memory: it may come again', async () => {
    const thread = await start({ policyOptions: {} })
    const file = join(folder, 'ram')
    writeFileSync(file, randomBytes(MIB))
    const ram = [{ base: RAM, size: MIB, path: file, offset: 0 }]
    const refused = told(thread, 'refused')
    const qemu = await FakeQemu.connect(path())
    await expect(qemu.hello([1, 1], { ram, resumed: 1, session: 'mine' })).rejects.toThrow('closed')
    expect(await refused).toEqual([`guest RAM ${file}: it is not the memory that QEMU uses`, true])
  })
})

describe('a token', () => {
  type Prove = FakeQemu['prove']
  async function come(token: Uint8Array | undefined, prove?: Prove) {
    const qemu = await FakeQemu.connect(path())
    qemu.token = token
    qemu.prove = prove
    const answer = qemu.hello()
    answer.catch(() => {})
    return { qemu, answer }
  }
  const answerOf = async (...args: Parameters<typeof come>) => (await come(...args)).answer
  const WRONG = { type: Id.refuse, text: 'it does not know the token of this server' }

  test('that both ends know lets a machine in, and each end has proved it', async () => {
    await start({ token: TOKEN })
    const { qemu, answer } = await come(TOKEN)
    expect(await answer).toMatchObject({ type: Id.welcome })
    expect(qemu.confirmed).toBe(true)
    expect(await qemu.reset()).toMatchObject({ type: Id.reply })
  })

  test('is proved anew on each connection of a machine', async () => {
    await start({ token: TOKEN })
    const { qemu, answer } = await come(TOKEN)
    await answer
    qemu.socket.destroy()
    const again = await qemu.reconnect(path())
    expect(again.confirmed).toBe(true)
  })

  test.each([
    ['another', Buffer.from('another token, as long')],
    ['one that is longer', Buffer.concat([TOKEN, Buffer.from('x')])],
    ['one that is shorter', TOKEN.subarray(1)],
    ['an empty one', Buffer.alloc(0)],
  ])('%s: refused, the owner hears of it, and nothing of the machine is touched', async (_name, token) => {
    const thread = await start({ token: TOKEN })
    const away = told(thread, 'turnedAway')
    const { qemu, answer } = await come(token)
    expect(await answer).toMatchObject(WRONG)
    expect((await away)[0]).toBe(WRONG.text)
    expect(qemu.confirmed).toBe(false)
    expect(qemu.received).toEqual([])
    expect(await answerOf(TOKEN)).toMatchObject({ type: Id.welcome })
  })

  test('none: refused before anything is asked', async () => {
    await start({ token: TOKEN })
    expect(await answerOf(undefined)).toMatchObject({
      type: Id.refuse,
      text: 'this server wants a token, and QEMU was given none (token-secret)',
    })
  })

  test('that only QEMU knows: it would not take this server', async () => {
    await start()
    expect(await answerOf(TOKEN)).toMatchObject({
      type: Id.refuse,
      text: 'QEMU was given a token (token-secret), this server was not',
    })
  })

  test('a proof that was overheard is of no use later', async () => {
    await start({ token: TOKEN })
    let proof: ReturnType<NonNullable<Prove>> = null
    const listening: Prove = ({ nonce: theirs }, hello) => {
      const nonce = Buffer.alloc(32, 7)
      proof = { nonce, mac: tokenMac(TOKEN, 'qemu', theirs, nonce, hello) }
      return proof
    }
    const honest = await come(TOKEN, listening)
    expect(await honest.answer).toMatchObject({ type: Id.welcome })
    honest.qemu.shutdown()
    // The same hello, byte by byte: only the server's nonce differs.
    expect(await answerOf(TOKEN, () => proof)).toMatchObject(WRONG)
  })

  test('a proof for another hello is none for this one', async () => {
    await start({ token: TOKEN })
    const other: Prove = ({ nonce: theirs }, hello) => {
      const nonce = Buffer.alloc(32, 7)
      const changed = Buffer.from(hello)
      changed[changed.length - 1] ^= 1
      return { nonce, mac: tokenMac(TOKEN, 'qemu', theirs, nonce, changed) }
    }
    expect(await answerOf(TOKEN, other)).toMatchObject(WRONG)
  })

  test.each<[string, NonNullable<Prove>]>([
    ['its own nonce', ({ nonce }, hello) => ({ nonce, mac: tokenMac(TOKEN, 'qemu', nonce, nonce, hello) })],
    [
      'a proof of the other direction',
      ({ nonce }, hello) => ({ nonce: NONCE, mac: tokenMac(TOKEN, 'server', nonce, NONCE, hello) }),
    ],
    ['zeros', () => ({ nonce: NONCE, mac: Buffer.alloc(32) })],
  ])('the server gets back %s: refused', async (_name, prove) => {
    await start({ token: TOKEN })
    expect(await answerOf(TOKEN, prove)).toMatchObject(WRONG)
  })

  test.each([
    [31, 32],
    [0, 32],
    [32, 31],
    [32, 0],
  ])('a nonce of %i bytes and a mac of %i', async (nonce, mac) => {
    await start({ token: TOKEN })
    const { qemu, answer } = await come(TOKEN, () => ({ nonce: Buffer.alloc(nonce), mac: Buffer.alloc(mac) }))
    await expect(answer).rejects.toThrow('closed')
    expect(qemu.received).toMatchObject([{ type: Id.error, code: enums.error.value[0] }])
  })

  test('nothing but the proof is taken before it, and no answer in the time for a hello', async () => {
    const thread = await start({ token: TOKEN, handshakeMs: 400 })
    const { answer } = await come(TOKEN, () => null)
    const away = told(thread, 'turnedAway')
    await expect(answer).rejects.toThrow('closed')
    expect((await away)[0]).toBe('a peer did not prove that it knows the token within 400 ms')
    const { qemu: hasty } = await come(TOKEN, () => null)
    await expect(hasty.reset()).rejects.toThrow('closed')
    expect(hasty.received).toMatchObject([{ type: Id.error, code: enums.error.state[0] }])
  })

  test('peers that owe a proof do not keep the machine out', async () => {
    await start({ token: TOKEN, handshakeMs: 60_000 })
    const idle = await Promise.all(Array.from({ length: 12 }, () => come(TOKEN, () => null)))
    expect(await answerOf(TOKEN)).toMatchObject({ type: Id.welcome })
    for (const { qemu } of idle) qemu.socket.destroy()
  })
})

describe('the machine that a peer describes', () => {
  test('is refused with what is wrong with it', async () => {
    await start()
    const qemu = await FakeQemu.connect(path())
    expect(await qemu.hello([1, 1], { ram: [] })).toMatchObject({
      type: Id.refuse,
      text: 'the machine that QEMU describes: it has no RAM',
    })
  })
})

describe('the socket', () => {
  test('is its owner’s alone from the start, and gone in the end', async () => {
    const thread = await start()
    expect(statSync(path()).mode & 0o777).toBe(0o600)
    expect(readdirSync(folder).filter(name => name.startsWith('.t'))).toEqual([])
    await thread.stop()
    expect(existsSync(path())).toBe(false)
  })

  test('of a server that was killed is replaced, that of one that lives is not', async () => {
    const left = createServer().listen(path())
    await once(left, 'listening')
    await expect(start()).rejects.toThrow('in use: another server listens there')
    expect(existsSync(path())).toBe(true)
    // Its file stays behind, as after kill -9.
    linkSync(path(), `${path()}.kept`)
    await new Promise(resolve => left.close(resolve))
    linkSync(`${path()}.kept`, path())
    await start()
    expect(await welcome()).toMatchObject({ type: Id.welcome })
  })

  test.each(['0.0.0.0', '', '[::]', '192.0.2.1', 'example.org'])('on the network is refused: "%s"', async host => {
    await expect(start({ listen: `${host}:0` })).rejects.toThrow('only the loopback interface is possible')
    // An address of this machine is needed to listen.
    if (host === '0.0.0.0') await start({ listen: `${host}:0`, token: TOKEN })
  })

  test('which addresses are loopback', () => {
    for (const host of ['localhost', '127.0.0.1', '127.9.9.9', '::1']) expect(isLoopback(host)).toBe(true)
    for (const host of ['', '0.0.0.0', '::', '10.0.0.1', 'localhost.example.org']) expect(isLoopback(host)).toBe(false)
  })
})

describe('a TCP connection', () => {
  /** @returns an unused port */
  async function freePort(): Promise<number> {
    const server = createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    await new Promise(resolve => server.close(resolve))
    return port
  }

  test('of the same user is served', async () => {
    const port = await freePort()
    await start({ listen: `127.0.0.1:${port}` })
    const qemu = await FakeQemu.connect(port)
    expect(await qemu.hello()).toMatchObject({ type: Id.welcome })
  })

  test.each(['127.0.0.1', '::1'])('has the owner that the kernel says: %s', async host => {
    const server = createServer().listen(0, host)
    await once(server, 'listening')
    const { port } = server.address() as { port: number }
    const [[accepted]] = await Promise.all([once(server, 'connection'), once(connect(port, host), 'connect')])
    expect(ownerOf(accepted)).toBe(process.getuid?.())
    accepted.destroy()
    server.close()
  })

  // Only root can be somebody else for a moment.
  test.runIf(process.getuid?.() === 0)('of another user is turned away', async () => {
    const port = await freePort()
    const thread = await start({ listen: `127.0.0.1:${port}` })
    const away = told(thread, 'turnedAway')
    const stranger = `require('net').connect(${port}, '127.0.0.1').on('close', () => process.exit(7)).resume()`
    const args = ['--reuid=65534', '--clear-groups', process.execPath, '-e', stranger]
    await expect(promisify(execFile)('setpriv', args, { env: {} })).rejects.toMatchObject({ code: 7 })
    expect((await away)[0]).toBe('a peer of user 65534 was turned away')
  })
})

describe('the file of guest RAM', () => {
  const ram = (file: string, size = 4096, offset = 0) => [{ base: RAM, size, path: file, offset }]
  let inside: string
  beforeEach(() => {
    inside = join(folder, 'inside')
    mkdirSync(inside)
    writeFileSync(join(folder, 'outside'), Buffer.alloc(8192))
    writeFileSync(join(inside, 'ram'), Buffer.alloc(8192))
  })
  const open = (name: string, ...rest: number[]) => openRamFile(ram(join(inside, name), ...rest), `${inside}/`, 'r+')

  test('in the folder, and below it, is opened', () => {
    expect(open('ram')).toBeDefined()
    expect(open('ram', 4096, 4096)).toBeDefined()
    mkdirSync(join(inside, 'below'))
    writeFileSync(join(inside, 'below/ram'), Buffer.alloc(4096))
    expect(open('below/ram')).toBeDefined()
    expect(openRamFile(ram(join(inside, 'ram')), join(inside, 'ram'), 'r+')).toBeDefined()
  })

  test('elsewhere is not: memory is reached over the wire', () => {
    expect(openRamFile(ram(join(folder, 'outside')), `${inside}/`, 'r+')).toBeUndefined()
    expect(open('../outside')).toBeUndefined()
    expect(open('nowhere/ram')).toBeUndefined()
    expect(openRamFile(ram(''), `${inside}/`, 'r+')).toBeUndefined()
    expect(openRamFile(ram(join(inside, 'ram')), join(inside, 'other'), 'r+')).toBeUndefined()
    const two = [...ram(join(inside, 'ram')), ...ram(join(inside, 'other'))]
    expect(openRamFile(two, `${inside}/`, 'r+')).toBeUndefined()
  })

  test('a folder that is a link out is elsewhere', () => {
    symlinkSync(folder, join(inside, 'out'))
    expect(open('out/outside')).toBeUndefined()
  })

  test.each<[string, () => void, RegExp]>([
    ['a link', () => symlinkSync(join(folder, 'outside'), join(inside, 'x')), /ELOOP/],
    ['a link within the folder', () => symlinkSync(join(inside, 'ram'), join(inside, 'x')), /ELOOP/],
    ['a FIFO', () => execFileSync('mkfifo', [join(inside, 'x')]), /not a regular file/],
    ['a folder', () => mkdirSync(join(inside, 'x')), /EISDIR/],
    ['nothing', () => {}, /ENOENT/],
    [
      'too small',
      () => writeFileSync(join(inside, 'x'), Buffer.alloc(4095)),
      /has 4095 bytes, the machine's RAM needs 4096/,
    ],
  ])('%s is refused', (_name, make, reason) => {
    make()
    expect(() => open('x')).toThrow(RamFileRefused)
    expect(() => open('x')).toThrow(reason)
  })

  test('a machine that has inherited it says so, whatever its name: nothing is opened, and nothing closed', () => {
    const fd = openSync(join(inside, 'ram'), 'r+')
    rmSync(join(inside, 'ram'))
    const inherited = (...rest: number[]) => openRamFile(ram(INHERITED_RAM, ...rest), fd, 'r+')
    const file = inherited()
    expect(file?.fd).toBe(fd)
    file?.close()
    expect(fstatSync(fd).size).toBe(8192)
    expect(() => inherited(4096, 8192)).toThrow(/has 8192 bytes, the machine's RAM needs 12288/)
    closeSync(fd)
  })

  test('names mean nothing to who has a descriptor, and the other way round', () => {
    const fd = openSync(join(inside, 'ram'), 'r+')
    expect(openRamFile(ram(join(inside, 'ram')), fd, 'r+')).toBeUndefined()
    expect(openRamFile(ram(`/proc/self/fd/${fd}`), fd, 'r+')).toBeUndefined()
    expect(openRamFile(ram(''), fd, 'r+')).toBeUndefined()
    expect(openRamFile(ram(INHERITED_RAM), `${inside}/`, 'r+')).toBeUndefined()
    closeSync(fd)
  })

  test('a range that the file does not hold is refused', () => {
    expect(() => open('ram', 4096, 8192)).toThrow(/has 8192 bytes, the machine's RAM needs 12288/)
  })
})
