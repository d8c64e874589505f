// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs'
import type { Server, Socket } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { FrameWriter } from '../../protocol/framing.ts'
import {
  encodeGuardAdd,
  encodeGuardRemove,
  encodeHold,
  encodeHwRead,
  encodeMemRead,
  encodeMemWrite,
  encodeRefuse,
  encodeReply,
  encodeWelcome,
  Id,
  type MessageFromQemu,
} from '../../protocol/generated/messages.ts'
import { MAX_FRAME } from '../../protocol/messages.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'
import { type Handler, serve as serveAt } from './server.ts'

let machine: QtestMachine
let server: Server | undefined
beforeEach(() => {
  machine = new QtestMachine()
})
afterEach(async () => {
  server?.close()
  server = undefined
  await machine.dispose()
})

async function serve(handler: Handler): Promise<void> {
  server = await serveAt(machine.socket, handler)
}

/** Welcomes QEMU and answers everything; `others` sees what is not part of that. */
const polite =
  (others: Handler): Handler =>
  (message, out, socket, payload) => {
    if (message.type === Id.hello) encodeWelcome(out, message.seq, 1, 0, 'test')
    else if (message.type === Id.reset) encodeReply(out, message.seq, 0, 0, 0)
    else others(message, out, socket, payload)
  }

/** A trap whose outcome does not matter: qtest sees an aborted read as 0, or QEMU's end. */
const touch = (): Promise<unknown> => machine.qtest.read(SMMU, 4).catch(() => {})

describe('QEMU without a server that works', () => {
  test('nobody listens: it gives up after connect-timeout-ms, and says where it tried', async () => {
    await expect(machine.start({ properties: ['connect-timeout-ms=300'] })).rejects.toThrow(machine.socket)
    expect(await machine.exit()).toBe(1)
  })

  test('refused: it ends with the text of the server', async () => {
    await serve((message, out) => {
      if (message.type === Id.hello)
        encodeRefuse(out, message.seq, 7, 9, 'this server speaks versions 7 to 9, QEMU 1 to 1')
    })
    await expect(machine.start()).rejects.toThrow('this server speaks versions 7 to 9, QEMU 1 to 1')
    expect(await machine.exit()).toBe(1)
  })

  test('the server closes in the middle of a trap', async () => {
    await serve(
      polite((message, _out, socket) => {
        if (message.type === Id.trapRead) socket.destroy()
      }),
    )
    await machine.start()
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/smmu-cosim.*(closed|lost)/)
  })

  test('the server does not answer: reply-timeout-ms', async () => {
    await serve(polite(() => {}))
    await machine.start({ properties: ['reply-timeout-ms=300'] })
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/300 ms/)
  })

  test('time without limit that a lost server asked for is not its successor’s', async () => {
    let trapped = 0
    await serve(
      polite((message, out, socket) => {
        if (message.type !== Id.trapRead || ++trapped > 1) return
        encodeHold(out, 1)
        socket.write(Buffer.from(out.buffer.subarray(0, out.length)))
        out.reset()
        // Longer than the timeout: it is held.
        setTimeout(() => socket.destroy(), 1_000)
      }),
    )
    await machine.start({ properties: ['reply-timeout-ms=300', 'reconnect-ms=3000'] })
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(trapped).toBeGreaterThan(1)
    // The second one never answers, is lost as well, and nobody comes.
    expect(machine.errors).toMatch(/did not come back within 3000 ms/)
  })

  test('servers that welcome it and answer wrongly are asked less and less, until reconnect-ms', async () => {
    const connected: number[] = []
    await serve(
      polite((message, out, socket) => {
        if (message.type !== Id.trapRead) return
        // The first one does its work, and goes: its successor is found at once.
        if (connected.length === 1) socket.destroy()
        else encodeReply(out, message.seq + 1, 0, 0, 0)
      }),
    )
    server?.on('connection', () => connected.push(performance.now()))
    await machine.start({ properties: ['reconnect-ms=3000'] })
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/did not come back within 3000 ms/)
    const pauses = connected.map((at, i) => at - (connected[i - 1] ?? at)).slice(1)
    expect(pauses[0]).toBeLessThan(200)
    // 20, 40, 80 … 640 ms, and up to 20 more each.
    expect(pauses.length).toBeGreaterThanOrEqual(7)
    expect(pauses.length).toBeLessThanOrEqual(10)
    for (let i = 1; i < pauses.length; i++) expect(pauses[i]).toBeGreaterThanOrEqual(Math.min(20 * 2 ** (i - 1), 640))
  })

  test('SIGTERM ends it while it waits for an answer', async () => {
    await serve(polite(() => {}))
    await machine.start({ properties: ['reply-timeout-ms=60000'] })
    const read = touch()
    await new Promise(resolve => setTimeout(resolve, 100))
    machine.kill('SIGTERM')
    await read
    await machine.exit()
  })
})

describe('QEMU and frames that break the protocol: an error that names the frame, exit code 1, no crash', () => {
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
  const frame = (...bytes: number[]) => Buffer.concat([u32(bytes.length), Buffer.from(bytes)])
  test.each([
    ['length 0', u32(0)],
    ['length above the limit', u32(MAX_FRAME + 1)],
    ['length 2^32 - 1', u32(0xffff_ffff)],
    ['no msgpack', frame(0xc1)],
    ['not an array', frame(0x05)],
    ['empty array', frame(0x90)],
    ['unknown type', frame(0x92, 0x7e, 0x01)],
    ['a message of QEMU itself', frame(0x95, 0x0a, 0x01, 0, 0, 0)],
    ['wrong arity', frame(0x92, 0x22, 0x01)],
    ['negative value', frame(0x95, 0x22, 0x01, 0xff, 0, 0)],
    ['a float', frame(0x95, 0x22, 0x01, 0xca, 0, 0, 0, 0, 0, 0)],
    ['status out of range', frame(0x95, 0x22, 0x01, 0x7f, 0, 0)],
    ['trailing bytes', frame(0x92, 0x30, 0x01, 0x00)],
    ['array longer than its bytes', frame(0xdd, 0xff, 0xff, 0xff, 0xff)],
    ['bin longer than its bytes', frame(0x94, 0x28, 0x01, 0x00, 0xc6, 0xff, 0xff, 0xff, 0xff)],
    ['reply to another request', frame(0x95, 0x22, 0x7f, 0, 0, 0)],
  ])('%s', async (_name, bytes) => {
    await serve(
      polite((message, _out, socket) => {
        if (message.type === Id.trapRead) socket.write(bytes)
      }),
    )
    await machine.start()
    await touch()
    expect(await machine.exit()).toBe(1)
    expect(machine.errors).toMatch(/smmu-cosim/)
  })
})

describe('requests of the server', () => {
  test('are served while a trap waits, in order, also several in one write', async () => {
    const seen: MessageFromQemu[] = []
    let trap = 0
    await serve(
      polite((message, out) => {
        if (message.type === Id.trapRead) {
          trap = message.seq
          encodeMemWrite(out, 1, RAM + 0x1000, Buffer.from('hello'))
          encodeMemRead(out, 2, RAM + 0x1000, 5)
          encodeHwRead(out, 3, 0, 0, 4)
          encodeMemRead(out, 4, 0x1000, 5)
          encodeMemWrite(out, 5, RAM + (256 << 20) - 2, Buffer.from('hello'))
          encodeHwRead(out, 6, 9, 0, 4)
          encodeGuardAdd(out, 7, 0x1000, 4096)
        } else {
          seen.push(message)
          if (message.seq === 7) encodeReply(out, trap, 0, 0, 0x1234)
        }
      }),
    )
    await machine.start()
    expect(await machine.qtest.read(SMMU, 4)).toBe(0x1234n)
    expect(seen).toMatchObject([
      { type: Id.done, seq: 1, status: 0 },
      { type: Id.data, seq: 2, status: 0, bytes: new Uint8Array(Buffer.from('hello')) },
      { type: Id.done, seq: 3, status: 0 },
      { type: Id.data, seq: 4, status: 2 },
      { type: Id.done, seq: 5, status: 2 },
      { type: Id.done, seq: 6, status: 2 },
      { type: Id.done, seq: 7, status: 2 },
    ])
    expect((await machine.qtest.readBytes(RAM + 0x1000, 5)).toString()).toBe('hello')
  })

  test('are served when no trap waits', async () => {
    const seen: MessageFromQemu[] = []
    let peer: Socket | undefined
    await serve(
      polite((message, _out, socket) => {
        peer = socket
        seen.push(message)
      }),
    )
    server?.on('connection', socket => {
      peer = socket
    })
    await machine.start()
    const out = new FrameWriter()
    encodeHwRead(out, 1, 0, 0, 4)
    peer?.write(Buffer.from(out.buffer.subarray(0, out.length)))
    await expect.poll(() => seen).toMatchObject([{ type: Id.done, seq: 1, status: 0 }])
  })

  test('memory over the wire, for a server that cannot open the file', async () => {
    const policy = join(machine.folder, 'policy.ts')
    writeFileSync(
      policy,
      `export default machine => ({
         name: 'memory', reset() {},
         access(trap) {
           const bytes = Buffer.alloc(3 << 20)
           if (trap.write) machine.memory.write(${RAM}, bytes.fill(trap.lo), 0, bytes.length)
           else { machine.memory.read(${RAM}, bytes, 0, bytes.length); trap.lo = bytes.at(-1) }
         },
       })`,
    )
    await machine.serve(policy, {}, '/another/file')
    await machine.start()
    await machine.qtest.write(SMMU, 4, 0x7e)
    expect(await machine.qtest.read(SMMU, 4)).toBe(0x7en)
    expect((await machine.qtest.readBytes(RAM + (3 << 20) - 1, 2)).toString('hex')).toBe('7e00')
  })
})

describe('guards', () => {
  const PAGE = 4096
  const FIRST = RAM + (16 << 20)
  const COUNT = 5000

  /** Has the guards changed by a trap; resolves with the statuses of the answers. */
  async function change(changes: readonly (readonly [add: boolean, base: number, size: number])[]): Promise<number[]> {
    const statuses: number[] = []
    await serve(
      polite((message, out) => {
        if (message.type === Id.done) statuses.push(message.status)
        if (message.type !== Id.trapRead) return
        changes.forEach(([add, base, size], i) => {
          if (add) encodeGuardAdd(out, i + 1, base, size)
          else encodeGuardRemove(out, i + 1, base, size)
        })
        encodeReply(out, message.seq, 0, 0, 0)
      }),
    )
    await machine.start()
    await machine.qtest.write(FIRST + 2 * PAGE, 4, 0x55)
    await machine.qtest.read(SMMU, 4)
    await expect.poll(() => statuses.length).toBe(changes.length)
    return statuses
  }

  const guarded = async (address: number) => {
    await machine.qtest.write(address, 4, 0xaa)
    return (await machine.qtest.read(address, 4)) !== 0xaan
  }

  test('page by page, more of them than there may be separate ones', async () => {
    const changes = Array.from({ length: COUNT }, (_, i) => [true, FIRST + i * PAGE, PAGE] as const)
    expect(new Set(await change(changes))).toEqual(new Set([0]))
    for (const page of [0, 1, COUNT / 2, COUNT - 1]) expect(await guarded(FIRST + page * PAGE)).toBe(true)
    for (const page of [-1, COUNT]) expect(await guarded(FIRST + page * PAGE)).toBe(false)
  })

  test('added twice and in part; removed in the middle, twice and across gaps', async () => {
    const p = (page: number) => FIRST + page * PAGE
    const statuses = await change([
      [true, p(0), 4 * PAGE],
      [true, p(2), 6 * PAGE],
      [true, p(10), 2 * PAGE],
      [true, p(1), PAGE],
      [false, p(3), PAGE],
      [false, p(3), PAGE],
      [false, p(7), 4 * PAGE],
    ])
    expect(statuses).toEqual([0, 0, 0, 0, 0, 0, 0])
    const pages = Array.from({ length: 13 }, (_, page) => page)
    const found = []
    for (const page of pages) if (await guarded(p(page))) found.push(page)
    expect(found).toEqual([0, 1, 2, 4, 5, 6, 11])
  })

  test.each([
    ['no bytes', FIRST, 0],
    ['not whole pages', FIRST, 100],
    ['not at a page', FIRST + 8, PAGE],
    ['no RAM', 0x1000, PAGE],
    ['across the end of the address space', 2 ** 53 - PAGE, PAGE],
  ])('%s is refused', async (_, base, size) => {
    expect(await change([[true, base, size]])).toEqual([2])
    expect(await guarded(FIRST)).toBe(false)
  })
})
