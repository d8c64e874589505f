// SPDX-License-Identifier: Apache-2.0
/** The wire's side of a take-over: who is let on, what is repeated, and code that is replaced while a machine runs. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  encodeHello,
  encodeTrapRead,
  encodeTrapWrite,
  Id,
  type MessageFromServer,
} from '../../../protocol/generated/messages.ts'
import { LiveCode } from '../../../server/control/liveCode.ts'
import { TrapThread } from '../../../server/control/trapThread.ts'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { createCounters } from '../../../server/trace/counters.ts'
import { createRing, RingReader } from '../../../server/trace/ring.ts'
import { CannotResume, CheckpointWriter, noProgress, readCheckpoint } from '../../../server/trap/checkpoint.ts'
import type { ThreadOptions } from '../../../server/trap/messages.ts'
import { FakeQemu } from '../../unit/trap/fakeQemu.ts'

let folder: string
const threads: TrapThread[] = []
beforeEach(() => {
  folder = privateFolder(tmpdir(), 'takeover-')
})
afterEach(async () => {
  for (const thread of threads.splice(0)) await thread.stop()
  rmSync(folder, { recursive: true })
})

/** Counts the writes that it carried out: its only state. A read answers how many, plus `base`. */
const counting = (base: number, extra = '') => `
let generation = 0, count = 0
export default machine => ({
  name: 'counting',
  reset() { count = 0; generation++ },
  access(trap) {
    ${extra}
    if (trap.write) { machine.smmus[0].hardware.write(trap.offset, 4, ++count, 0); generation++ }
    else { trap.lo = ${base} + count; trap.hi = 0 }
  },
  state: {
    get generation() { return generation },
    checkpoint() { return Uint8Array.of(count) },
    restore(bytes) { if (bytes.length !== 1) throw new Error('a counter of one byte was expected'); count = bytes[0] },
  },
})`

const policyFile = () => join(folder, 'policy.ts')
const socket = () => join(folder, 'trap')

async function start(source: string, more: Partial<ThreadOptions> = {}): Promise<TrapThread> {
  writeFileSync(policyFile(), source)
  const thread = await TrapThread.start({
    listen: socket(),
    policy: policyFile(),
    policyOptions: {},
    ramFile: join(folder, 'ram'),
    ring: createRing(1 << 16),
    counters: createCounters(),
    panicOnWarn: false,
    ...more,
  })
  threads.push(thread)
  return thread
}

/** The checkpoint that came last. */
function checkpoint(qemu: FakeQemu): Uint8Array {
  const message = qemu.received.findLast(m => m.type === Id.checkpoint)
  if (message?.type !== Id.checkpoint) throw new Error('no checkpoint came')
  return message.bytes.slice()
}

interface Resumption {
  readonly session: string
  readonly checkpoint: Uint8Array
  readonly lastSeq?: number
}

/** Says hello as a machine that runs already. */
function resume(qemu: FakeQemu, { session, checkpoint, lastSeq = 0 }: Resumption): Promise<MessageFromServer> {
  encodeHello(qemu.out, 1000, {
    minVersion: 1,
    maxVersion: 1,
    features: 0,
    session,
    resumed: 1,
    lastSeq,
    checkpoint,
    qemuVersion: 'fake',
    vcpus: 1,
    carveoutBase: 0,
    carveoutSize: 0,
    ram: [{ base: 0x4000_0000, size: qemu.memory.length, path: '', offset: 0 }],
    smmus: [{ base: 0x0905_0000, size: 0x2_0000, irqEvtq: 1, irqPriq: 2, irqCmdSync: 3, irqGerror: 4 }],
    devices: [],
  })
  return qemu.send(1000)
}

function repeatWrite(qemu: FakeQemu, seq: number): Promise<MessageFromServer> {
  encodeTrapWrite(qemu.out, seq, 0, 0, 0x20, 4, 1_000, 0, 0, 0, 0, 7)
  return qemu.send(seq)
}

/** A machine that has made two writes, and its server. */
async function running(more: Partial<ThreadOptions> = {}, extra = '') {
  const thread = await start(counting(0, extra), more)
  const qemu = await FakeQemu.connect(socket())
  const welcome = await qemu.hello()
  if (welcome.type !== Id.welcome) throw new Error('not welcome')
  await qemu.reset()
  await qemu.write(0x20, 4, 1)
  const second = await qemu.write(0x20, 4, 1)
  const bytes = checkpoint(qemu)
  return { thread, qemu, session: welcome.session, bytes, seq: second.seq }
}

async function restarted(source: string, more: Partial<ThreadOptions> = {}): Promise<FakeQemu> {
  await threads.splice(0)[0]?.stop()
  await start(source, more)
  return FakeQemu.connect(socket())
}

test('a file that is no socket is not removed to listen there', async () => {
  writeFileSync(socket(), 'notes')
  await expect(start(counting(0))).rejects.toThrow(/there is a file of that name/)
  expect(readFileSync(socket(), 'utf8')).toBe('notes')
})

describe('a request whose answer was lost', () => {
  test('is answered again, and not carried out again', async () => {
    const { session, bytes, seq } = await running()
    const qemu = await restarted(counting(0))
    expect(await resume(qemu, { session, checkpoint: bytes, lastSeq: seq - 1 })).toMatchObject({
      type: Id.welcome,
      session,
    })
    expect(await repeatWrite(qemu, seq)).toMatchObject({ type: Id.reply, status: 0 })
    expect(qemu.registers.size).toBe(0)
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 2 })
  })

  test('a request that was cut is carried out', async () => {
    const { session, bytes, seq } = await running()
    const qemu = await restarted(counting(0))
    await resume(qemu, { session, checkpoint: bytes, lastSeq: seq })
    expect(await repeatWrite(qemu, seq + 1)).toMatchObject({ type: Id.reply, status: 0 })
    expect(qemu.registers.get(0x20)).toBe(3)
  })

  test('reads that change nothing cost no checkpoint', async () => {
    const { qemu } = await running()
    const before = qemu.received.filter(m => m.type === Id.checkpoint).length
    await qemu.read(0, 4)
    await qemu.read(0, 4)
    expect(qemu.received.filter(m => m.type === Id.checkpoint)).toHaveLength(before)
    await qemu.write(0x20, 4, 1)
    expect(qemu.received.filter(m => m.type === Id.checkpoint)).toHaveLength(before + 1)
  })
})

describe('a machine that cannot be taken over is refused with the reason', () => {
  test.each<[string, (bytes: Uint8Array) => Uint8Array, RegExp]>([
    ['no checkpoint', () => new Uint8Array(0), /has no checkpoint/],
    ['another thing', bytes => bytes.fill(0x41, 0, 4), /not one of ours/],
    ['another version', bytes => bytes.fill(9, 4, 5), /has version 9, this server reads 1/],
    ['one byte changed', bytes => bytes.fill(0xff, bytes.length - 1), /damaged/],
    ['cut short', bytes => bytes.subarray(0, bytes.length - 1), /cut short/],
  ])('%s', async (_name, change, reason) => {
    const { session, bytes } = await running()
    const qemu = await restarted(counting(0))
    const answer = await resume(qemu, { session, checkpoint: change(bytes.slice()) })
    expect(answer).toMatchObject({ type: Id.refuse, text: expect.stringMatching(reason) })
  })

  test('another session', async () => {
    const { bytes } = await running()
    const qemu = await restarted(counting(0))
    const answer = await resume(qemu, { session: 'somebody else', checkpoint: bytes })
    expect(answer).toMatchObject({ type: Id.refuse, text: expect.stringContaining('another session') })
  })

  test('another policy', async () => {
    const { session, bytes } = await running()
    const qemu = await restarted('', { policy: 'passthrough' })
    expect(await resume(qemu, { session, checkpoint: bytes })).toMatchObject({
      type: Id.refuse,
      text: expect.stringContaining('it runs under policy counting, this server has passthrough'),
    })
  })

  test('with onRefusal reset it is taken, its traps abort, and its reset brings it back', async () => {
    const { session } = await running()
    const qemu = await restarted(counting(0), { onRefusal: 'reset' })
    const lost = new Promise(resolve => threads[0]?.once('lost', resolve))
    expect(await resume(qemu, { session, checkpoint: new Uint8Array(0) })).toMatchObject({ type: Id.welcome })
    expect(await lost).toMatch(/has no checkpoint/)
    // What it does not know is not kept instead of what QEMU has.
    await threads[0]?.call('sections')
    expect(qemu.received.filter(m => m.type === Id.checkpoint)).toEqual([])
    expect(await repeatWrite(qemu, 5)).toMatchObject({ type: Id.reply, status: 1 })
    expect(await qemu.reset()).toMatchObject({ type: Id.reply, status: 0 })
    expect(await qemu.read(0, 4)).toMatchObject({ type: Id.reply, status: 0, valueLo: 0 })
  })
})

describe('code that is replaced while a machine runs', () => {
  /** Connects again whenever the connection is lost, as QEMU does. */
  async function again(session: string, bytes: Uint8Array): Promise<FakeQemu> {
    for (;;) {
      const qemu = await FakeQemu.connect(socket()).catch(() => undefined)
      const answer =
        (await qemu) && (await resume(qemu as FakeQemu, { session, checkpoint: bytes }).catch(() => undefined))
      if (qemu && answer?.type === Id.welcome) return qemu
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  }

  test('new code goes on from the state of the old', async () => {
    const { thread, session, bytes } = await running()
    writeFileSync(policyFile(), counting(100))
    const back = again(session, bytes)
    const swap = await thread.swap()
    const qemu = await back
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 102 })
    expect(await swap.firstTrap).toBeGreaterThan(0)
    expect(swap.gapMs).toBeLessThan(2_000)
  })

  test.each([
    ['does not parse', 'export default (', /policy\.ts/],
    ['throws when it is loaded', "throw new Error('not today')", /not today/],
    ['has no policy', 'export const x = 1', /default export/],
    ['cannot read the state', counting(0).replace('bytes.length !== 1', 'bytes.length !== 2'), /a counter of one byte/],
    ['is another policy', counting(0).replace("'counting'", "'other'"), /runs under policy counting, this is other/],
  ])('code that %s is not taken, and the old one never stops', async (_name, source, reason) => {
    const { thread, qemu } = await running()
    writeFileSync(policyFile(), source)
    await expect(thread.swap()).rejects.toThrow(reason)
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 2 })
    writeFileSync(policyFile(), counting(100))
  })

  test('old code that loops is replaced all the same, by what QEMU keeps', async () => {
    const loops = 'if (trap.offset === 0x44) for (;;) {}'
    const { thread, qemu, session, bytes, seq } = await running({ patienceMs: 5_000 }, loops)
    const lost = qemu.write(0x44, 4, 1).catch(() => 'no answer')
    writeFileSync(policyFile(), counting(100))
    const back = again(session, bytes)
    await thread.swap()
    expect(thread.parked).toBe(false)
    const other = await back
    expect(await repeatWrite(other, seq + 1)).toMatchObject({ type: Id.reply, status: 0 })
    expect(await other.read(0, 4)).toMatchObject({ valueLo: 103 })
    qemu.socket.destroy()
    expect(await lost).toBe('no answer')
  })

  test.each([
    ['when it is loaded', 'for (;;) {}', /did not load within 5 s: does it loop/],
    [
      'when it is tried',
      counting(0).replace('count = bytes[0]', 'for (;;) {}'),
      /was not tried within 5 s: does it loop/,
    ],
  ])('new code that loops %s is not taken', async (_name, source, reason) => {
    const { thread, qemu } = await running({ patienceMs: 5_000 })
    writeFileSync(policyFile(), source)
    await expect(thread.swap()).rejects.toThrow(reason)
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 2 })
    expect(thread.parked).toBe(false)
  })

  test('what comes later is refused as by any server, not left to another', async () => {
    const { thread, session, bytes } = await running()
    const back = again(session, bytes)
    await thread.swap()
    const gone = new Promise(resolve => thread.once('disconnected', resolve))
    ;(await back).socket.destroy()
    await gone
    const qemu = await FakeQemu.connect(socket())
    expect(await resume(qemu, { session, checkpoint: new Uint8Array(0) })).toMatchObject({
      type: Id.refuse,
      text: expect.stringMatching(/has no checkpoint/),
    })
  })

  test('a trap that is held after it was decided is not decided again', async () => {
    const counts = 'if (!trap.write && trap.offset === 0x60) { count++; generation++ }'
    const { thread, qemu, session } = await running({}, counts)
    await thread.call('addBreakpoint', {
      match: { on: 'register', offset: 0x60, access: 'read' },
      skip: 0,
      once: false,
      enabled: true,
    })
    const held = new Promise(resolve => thread.once('held', resolve))
    const lost = qemu.read(0x60, 4).catch(() => 'no answer')
    await held
    await thread.call('sections')
    // It comes on another way than the result of the call.
    await expect.poll(() => readCheckpoint(checkpoint(qemu)).lo).toBe(3)
    const kept = checkpoint(qemu)
    const back = again(session, kept)
    await thread.swap()
    const other = await back
    const seq = readCheckpoint(kept).request
    expect(seq).toBeGreaterThan(0)
    encodeTrapRead(other.out, seq, 0, 0, 0x60, 4, 1_000, 0, 0, 0)
    expect(await other.send(seq)).toMatchObject({ type: Id.reply, status: 0, valueLo: 3 })
    expect(await other.read(0, 4)).toMatchObject({ valueLo: 3 })
    qemu.socket.destroy()
    expect(await lost).toBe('no answer')
  })

  test('code that fails at the machine itself: the old one goes on', async () => {
    const buffer = createRing(1 << 16)
    const { thread, session, bytes } = await running({ ring: buffer })
    const tries = 'machine.smmus[0].hardware.read(0x24, 4, { lo: 0, hi: 0 })'
    const resumes = `resume() { ${tries}; throw new Error('not with this hardware') },`
    writeFileSync(policyFile(), counting(100).replace('state: {', `state: { ${resumes}`))
    const swapped = thread.swap().catch((error: Error) => error.message)
    const back = again(session, bytes)
    expect(await swapped).toMatch(/not with this hardware/)
    const qemu = await back
    expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 2 })
    // It goes on in the trace, too, behind what the other one wrote.
    await thread.call('held')
    const ring = new RingReader(buffer)
    const kinds: string[] = []
    ring.drain((layout, at) => {
      const record = ring.decode(layout, at)
      kinds.push(record.kind === 'hardware' ? `hardware ${record.offset}` : record.kind)
    })
    const writes = ['hardware 32', 'trap', 'hardware 32', 'trap']
    expect(kinds).toEqual(['reset', ...writes, 'hardware 36', 'request', 'trap'])
  })

  describe('a thread that a fault ends in the middle of a trap', () => {
    const faults: ThreadOptions['faults'] = {
      seed: 1,
      rules: [
        {
          name: 'kill',
          where: { at: 'register', register: 'ARM_SMMU_CR0', access: 'write' },
          when: { nth: 3 },
          what: { do: 'kill' },
        },
      ],
    }

    test('is replaced where the machine waits, and the rule stays fired', async () => {
      const { thread, qemu, session, bytes, seq } = await running({ faults, revive: true })
      const fired: string[] = []
      thread.on('fired', ({ rule, n }) => fired.push(`${rule} ${n}`))
      const away = new Promise(resolve => thread.once('disconnected', resolve))
      const lost = qemu.write(0x20, 4, 1).catch(() => 'no answer')
      expect(await away).toMatch(/the trap thread ended: exit code 1/)
      const other = await again(session, bytes)
      expect(await repeatWrite(other, seq + 1)).toMatchObject({ type: Id.reply, status: 0 })
      expect(await other.read(0, 4)).toMatchObject({ valueLo: 3 })
      expect(fired).toEqual(['kill 1'])
      expect(await thread.call('faults')).toMatchObject({ rules: [{ rule: 'kill', matches: 3, fired: 1 }] })
      qemu.socket.destroy()
      expect(await lost).toBe('no answer')
    })

    test('is the end of it where nobody waits', async () => {
      const { thread, qemu } = await running({ faults })
      const died = new Promise(resolve => thread.once('died', resolve))
      qemu.write(0x20, 4, 1).catch(() => {})
      expect(await died).toBe('exit code 1')
      await expect(thread.call('faults')).rejects.toThrow('the trap thread has ended')
    })
  })

  test('a save replaces it; saving the same again does not', async () => {
    const { thread, session, bytes } = await running()
    const said: string[] = []
    const say = (line: string) => said.push(line)
    const live = new LiveCode({ thread: () => thread, policy: policyFile(), say, types: false })
    try {
      writeFileSync(policyFile(), counting(0))
      writeFileSync(policyFile(), counting(7))
      const qemu = await again(session, bytes)
      expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 9 })
      await expect.poll(() => said.filter(line => line.includes('first trap'))).toHaveLength(1)
      writeFileSync(policyFile(), counting(7))
      writeFileSync(policyFile(), 'export default (')
      await expect.poll(() => said.at(-1)).toBe('the old code goes on')
      expect(said.filter(line => line.includes('in place'))).toHaveLength(1)
      expect(await qemu.read(0, 4)).toMatchObject({ valueLo: 9 })
      // As vim and others save: another file takes the place of the old one, time and again.
      for (const base of [20, 30]) {
        writeFileSync(`${policyFile()}.new`, counting(base))
        renameSync(`${policyFile()}.new`, policyFile())
        const next = await again(session, bytes)
        expect(await next.read(0, 4)).toMatchObject({ valueLo: base + 2 })
        await expect.poll(() => said.at(-1)).toContain('first trap')
      }
    } finally {
      live.close()
    }
  })
})

test('the envelope holds texts and states of any length', () => {
  for (let length = 0; length < 9; length++) {
    for (const policy of ['p', 'pkvm', 'passthrough', 'ünlich']) {
      const writer = new CheckpointWriter('a session', policy)
      const state = new Uint8Array(length).fill(0xff)
      for (let again = 0; again < 2; again++) {
        const envelope = readCheckpoint(Buffer.from(writer.write({ ...noProgress(), request: 1 }, state)))
        expect(envelope).toMatchObject({ session: 'a session', policy, state })
      }
    }
  }
})

test('a checkpoint whose policy has a name that is no text is refused all the same', async () => {
  const { session } = await running()
  const qemu = await restarted(counting(0))
  const checkpoint = new CheckpointWriter(session, 'a\0b').write(noProgress(), new Uint8Array(1)).slice()
  expect(await resume(qemu, { session, checkpoint })).toMatchObject({
    type: Id.refuse,
    text: expect.stringContaining('ab'),
  })
})

test('the envelope grows', () => {
  const writer = new CheckpointWriter('a session', 'a policy')
  const state = new Uint8Array(100_000).map((_, i) => i)
  const progress = { request: 5, last: 9, status: 1, hi: 0xffff_ffff, lo: 0x1234, trap: 2 ** 40 + 3 }
  const bytes = writer.write(progress, state)
  expect(readCheckpoint(bytes)).toEqual({ session: 'a session', policy: 'a policy', ...progress, state })
  // A format that QEMU keeps for another server: neither order nor place of its numbers may change.
  expect([...new Uint32Array(bytes.buffer, bytes.byteOffset, 11)].slice(4)).toEqual([
    5, 9, 1, 0x1234, 0xffff_ffff, 3, 256,
  ])
  expect(() => writer.write(noProgress(), new Uint8Array(600_000))).toThrow(RangeError)
  for (let length = 0; length < 200; length++)
    expect(() => readCheckpoint(bytes.subarray(0, length))).toThrow(CannotResume)
})
