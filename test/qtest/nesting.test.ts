// SPDX-License-Identifier: Apache-2.0
/** Each request of the server, in each place from which QEMU asks it, over the socket and a ring: nothing that serving needs may be held. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  encodeCallStack,
  encodeCheckpoint,
  encodeGuardAdd,
  encodeGuardRemove,
  encodeHold,
  encodeHwPost,
  encodeHwRead,
  encodeHwWrite,
  encodeInvalidate,
  encodeIrq,
  encodeMemRead,
  encodeMemWrite,
  encodePark,
  encodePause,
  encodeQuit,
  encodeResume,
  encodeRingOpen,
  encodeSysReg,
  encodeTranslated,
  encodeTranslateMode,
  encodeWatch,
  Id,
} from '../../protocol/generated/messages.ts'
import { enums, messages } from '../../protocol/messages.ts'
import { fieldPrep64 as prep } from '../../server/smmu/bits.ts'
import {
  CTXDESC_CD_0_A,
  CTXDESC_CD_0_AA64,
  CTXDESC_CD_0_ASET,
  CTXDESC_CD_0_R,
  CTXDESC_CD_0_TCR_EPD1,
  CTXDESC_CD_0_TCR_IPS,
  CTXDESC_CD_0_TCR_T0SZ,
  CTXDESC_CD_0_V,
} from '../../server/smmu/cd.ts'
import { cfgiAll, cmdSync, tlbiNsnhAll } from '../../server/smmu/commands.ts'
import {
  decodeEvent,
  EVT_ID_CD_FETCH_FAULT,
  EVT_ID_STE_FETCH_FAULT,
  EVT_ID_WALK_EABT,
} from '../../server/smmu/events.ts'
import * as r from '../../server/smmu/registers.ts'
import {
  STRTAB_STE_0_CFG,
  STRTAB_STE_0_CFG_BYPASS,
  STRTAB_STE_0_CFG_S1_TRANS,
  STRTAB_STE_0_V,
  STRTAB_STE_1_SHCFG,
  STRTAB_STE_1_SHCFG_INCOMING,
} from '../../server/smmu/ste.ts'
import { EDU_ARGS, EDU_SID, Edu } from './edu.ts'
import { QtestMachine, RAM, SMMU } from './machine.ts'
import { type Encode, type MessageOf, Peer } from './peer.ts'
import { Ring } from './ring.ts'

const [OK] = enums.status.ok
const MODE = enums.translateMode

/** Where the test keeps the SMMU's structures. */
const STRTAB = RAM + 0x10_0000
const EVTQ = RAM + 0x12_0000
const CD = RAM + 0x13_0000
const CMDQ = RAM + 0x80_0000
const BUFFER = RAM + 0x200_0000
const CMDQ_LOG2 = 6
const COMMANDS = 3
/** Commands that keep QEMU busy, and how often it is to consume them all. */
const BUSY_LOG2 = 15
const BUSY_POSTS = 4_000
const RING = enums.feature.ring[0]
const RING_BYTES = 4096

/** What the frames travel through. */
let transport: Transport
let machine: QtestMachine
let peer: Peer
let edu: Edu
/** Of the command queue, as the test has left it. */
let prod: number

beforeEach(async () => {
  transport = 'the socket'
  machine = new QtestMachine()
  prod = 0
  peer = await Peer.listen(machine.socket)
})
afterEach(async () => {
  peer.close()
  await machine.dispose()
})

const words = (values: readonly bigint[]) => new Uint8Array(BigUint64Array.from(values).buffer)
const write = (address: number, values: readonly bigint[]) => (out: Parameters<Encode>[0], seq: number) =>
  encodeMemWrite(out, seq, address, words(values))
const hw =
  (offset: number, value: bigint | number, size = 4): Encode =>
  (out, seq) =>
    encodeHwWrite(out, seq, 0, offset, size, Number(BigInt(value) >> 32n), Number(BigInt(value) & 0xffff_ffffn))
const mode =
  (value: readonly [number, string]): Encode =>
  (out, seq) =>
    encodeTranslateMode(out, seq, 0, value[0])

async function ask(encode: Encode, what: string): Promise<void> {
  expect(await peer.ask(encode), what).toBe(OK)
}

async function unsupported(encode: Encode, what: string): Promise<void> {
  expect(await peer.ask(encode), what).toBe(enums.status.unsupported[0])
}

const bypass = [
  STRTAB_STE_0_V | prep(STRTAB_STE_0_CFG, STRTAB_STE_0_CFG_BYPASS),
  prep(STRTAB_STE_1_SHCFG, STRTAB_STE_1_SHCFG_INCOMING),
]
const stage1 = (cd: number) => [STRTAB_STE_0_V | prep(STRTAB_STE_0_CFG, STRTAB_STE_0_CFG_S1_TRANS) | BigInt(cd), 0n]
const cd = (table: number) => [
  prep(CTXDESC_CD_0_TCR_T0SZ, 25) |
    CTXDESC_CD_0_TCR_EPD1 |
    CTXDESC_CD_0_V |
    prep(CTXDESC_CD_0_TCR_IPS, 2) |
    CTXDESC_CD_0_AA64 |
    CTXDESC_CD_0_R |
    CTXDESC_CD_0_A |
    CTXDESC_CD_0_ASET,
  BigInt(table),
]

/** Three commands, ending with CMD_SYNC, for the model's queue. */
function commands(): { readonly bytes: Uint8Array; readonly at: number } {
  const all = new Uint32Array(4 * COMMANDS)
  cfgiAll(all.subarray(0, 4))
  tlbiNsnhAll(all.subarray(4, 8))
  cmdSync(all.subarray(8, 12))
  const at = CMDQ + prod * 16
  return { bytes: new Uint8Array(all.buffer), at }
}

/** Three more commands are in the queue; @returns what PROD is to be. */
function produced(): number {
  prod += COMMANDS
  if (prod > 1 << CMDQ_LOG2) throw new Error('the queue is too small')
  return prod
}

/** The server's own set-up of the model: a linear stream table, queues, everything on; edu is in bypass. */
async function program(ste: readonly bigint[] = bypass): Promise<void> {
  await ask(write(STRTAB + EDU_SID * 64, [...ste, 0n, 0n, 0n, 0n, 0n, 0n]), 'STE')
  await ask(hw(r.ARM_SMMU_STRTAB_BASE, BigInt(STRTAB), 8), 'STRTAB_BASE')
  await ask(hw(r.ARM_SMMU_STRTAB_BASE_CFG, 8), 'STRTAB_BASE_CFG')
  await ask(hw(r.ARM_SMMU_CMDQ_BASE, BigInt(CMDQ) | BigInt(CMDQ_LOG2), 8), 'CMDQ_BASE')
  await ask(hw(r.ARM_SMMU_EVTQ_BASE, BigInt(EVTQ) | 7n, 8), 'EVTQ_BASE')
  await ask(hw(r.ARM_SMMU_IRQ_CTRL, 7), 'IRQ_CTRL')
  await ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN), 'CR0')
}

const REQUESTS: readonly (readonly [string, (place: Place) => Promise<void>])[] = [
  ['hwRead', () => ask((out, seq) => encodeHwRead(out, seq, 0, r.ARM_SMMU_IDR0, 4), 'hwRead')],
  ['hwWrite', () => ask(hw(r.ARM_SMMU_IRQ_CTRL, 7), 'hwWrite')],
  [
    'hwWrite that consumes commands',
    async () => {
      const { at, bytes } = commands()
      await ask((out, seq) => encodeMemWrite(out, seq, at, bytes), 'commands')
      await ask(hw(r.ARM_SMMU_CMDQ_PROD, produced()), 'CMDQ_PROD')
    },
  ],
  [
    'hwPost that consumes commands',
    async () => {
      const { at, bytes } = commands()
      await ask((out, seq) => encodeMemWrite(out, seq, at, bytes), 'commands')
      const to = produced()
      peer.send((out, seq) => encodeHwPost(out, seq, 0, r.ARM_SMMU_CMDQ_PROD, to, r.ARM_SMMU_CMDQ_CONS, to, to))
    },
  ],
  ['CR0', () => ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN), 'CR0')],
  ['memRead', () => ask((out, seq) => encodeMemRead(out, seq, BUFFER, 4096), 'memRead')],
  ['memWrite', () => ask((out, seq) => encodeMemWrite(out, seq, BUFFER, new Uint8Array(4096)), 'memWrite')],
  ...Object.entries(enums.irqLine).map(
    ([name, [line]]) => [`irq ${name}`, () => ask((out, seq) => encodeIrq(out, seq, 0, line), `irq ${name}`)] as const,
  ),
  ...Object.entries(enums.invalidateScope).map(
    ([name, [scope]]) =>
      [
        `invalidate ${name}`,
        () => ask((out, seq) => encodeInvalidate(out, seq, 0, scope, EDU_SID), `invalidate ${name}`),
      ] as const,
  ),
  ['guardAdd', () => ask((out, seq) => encodeGuardAdd(out, seq, RAM + 0x100_0000, 4096), 'guardAdd')],
  ['guardRemove', () => ask((out, seq) => encodeGuardRemove(out, seq, RAM + 0x100_0000, 4096), 'guardRemove')],
  ['translateMode server', () => ask(mode(MODE.server), 'translateMode server')],
  ['translateMode lockstep', () => ask(mode(MODE.lockstep), 'translateMode lockstep')],
  ['translateMode hardware', () => ask(mode(MODE.hardware), 'translateMode hardware')],
  ['pause', () => ask((out, seq) => encodePause(out, seq), 'pause')],
  ['resume', () => ask((out, seq) => encodeResume(out, seq), 'resume')],
  // Without TCG there is no EL2 to follow.
  ['watch', () => unsupported((out, seq) => encodeWatch(out, seq, BUFFER, 1), 'watch')],
  ['sysReg', () => unsupported((out, seq) => encodeSysReg(out, seq, 0, enums.sysReg.hcr[0]), 'sysReg')],
  // Nor a vCPU that could leave its access, or has a call stack: gdb.test.ts.
  [
    'park',
    async place => {
      if (place.asked) await unsupported((out, seq) => encodePark(out, seq), 'park')
    },
  ],
  [
    'callStack',
    async () => {
      expect(await peer.ask((out, seq) => encodeCallStack(out, seq, 0, 8)), 'callStack').toBe(enums.status.range[0])
    },
  ],
  ['checkpoint', async () => peer.send((out, seq) => encodeCheckpoint(out, seq, new Uint8Array(64)))],
  [
    'hold',
    async place => {
      if (place.asked) peer.send((out, seq) => encodeHold(out, seq))
    },
  ],
]

/** `ringOpen` comes once in a connection: `openRing`. `challenge` belongs to the handshake: token.test.ts. */
const ONCE = ['ringOpen', 'challenge']

const TRANSPORTS = ['the socket', 'a ring'] as const
type Transport = (typeof TRANSPORTS)[number]

const features = () => (transport === 'a ring' ? RING : 0)

/** The frames go through a ring from here on, or nobody agreed on one. */
async function openRing(): Promise<void> {
  if (transport === 'a ring') expect(await peer.openRing(new Ring(RING_BYTES)), 'ringOpen').toBe(OK)
  else await unsupported((out, seq) => encodeRingOpen(out, seq, 0x1_0000), 'ringOpen')
}

test('no request of the protocol is missing here', () => {
  const tried = new Set([...REQUESTS.map(([name]) => name.split(' ')[0]), ...ONCE])
  const asked = Object.entries(messages).filter(([, { from, kind }]) => from === 'server' && kind === 'request')
  expect(asked.map(([name]) => name).filter(name => !tried.has(name))).toEqual([])
})

interface Place {
  /** Whether QEMU waits for an answer there. */
  readonly asked: boolean
  /** Before QEMU has a handler of its own, a signal does what it does by default. */
  readonly starting?: true
  /** Starts QEMU, brings it there, and @returns how it leaves. */
  enter(...properties: readonly string[]): Promise<() => Promise<unknown>>
}

/** QEMU's start; a test that ends it meanwhile must not fail for that. */
function start(properties: readonly string[]): Promise<void> {
  const starting = machine.start({ args: EDU_ARGS, properties })
  starting.catch(() => {})
  return starting
}

/** Started, and the model programmed. */
async function ready(properties: readonly string[]): Promise<void> {
  const starting = start(properties)
  await peer.started(features())
  await starting
  await openRing()
  edu = await Edu.enable(machine.qtest)
  await program()
}

/** edu reads from `address`; the requests of QEMU that come of it have not been answered. */
const dma = (address: number) => edu.dmaRead(address, 8).catch(() => {})

/** Answers that the address is translated to itself, for all accesses. */
const identity =
  ({ seq, iovaLo }: MessageOf<typeof Id.translate>): Encode =>
  out =>
    encodeTranslated(out, seq, enums.translation.mapped[0], iovaLo, 0xfff, 3, 0, 0, 0, 0, 0, 0, 0, 0)

const PLACES: Readonly<Record<string, Place>> = {
  hello: {
    asked: true,
    starting: true,
    async enter(...properties) {
      const starting = start(properties)
      const hello = await peer.next(Id.hello)
      await openRing()
      await program()
      return async () => {
        peer.welcome(hello)
        peer.reply(await peer.next(Id.reset))
        await starting
      }
    },
  },
  'the first reset': {
    asked: true,
    starting: true,
    async enter(...properties) {
      const starting = start(properties)
      peer.welcome(await peer.next(Id.hello), features())
      const reset = await peer.next(Id.reset)
      await openRing()
      await program()
      return async () => {
        peer.reply(reset)
        await starting
      }
    },
  },
  'the main loop': {
    asked: false,
    async enter(...properties) {
      await ready(properties)
      return async () => {}
    },
  },
  'a read of the guest': {
    asked: true,
    async enter(...properties) {
      await ready(properties)
      const read = machine.qtest.read(SMMU, 4)
      read.catch(() => {})
      const trap = await peer.next(Id.trapRead)
      return async () => {
        peer.reply(trap, 0x1234)
        expect(await read).toBe(0x1234n)
      }
    },
  },
  'a write of the guest': {
    asked: true,
    async enter(...properties) {
      await ready(properties)
      const written = machine.qtest.write(SMMU, 4, 1)
      written.catch(() => {})
      const trap = await peer.next(Id.trapWrite)
      return async () => {
        peer.reply(trap)
        await written
      }
    },
  },
  'an access of a device to the frame': {
    asked: true,
    async enter(...properties) {
      await ready(properties)
      const done = dma(SMMU)
      const trap = await peer.next(Id.trapRead)
      expect(trap).toMatchObject({ cpu: 0xffff, size: 8 })
      return async () => {
        peer.reply(trap)
        await done
      }
    },
  },
  'a translation by the server': {
    asked: true,
    async enter(...properties) {
      await ready(properties)
      await ask(mode(MODE.server), 'translateMode')
      const done = dma(BUFFER)
      const translate = await peer.next(Id.translate)
      return async () => {
        peer.send(identity(translate))
        await done
      }
    },
  },
  'a translation in lockstep': {
    asked: true,
    async enter(...properties) {
      await ready(properties)
      await ask(mode(MODE.lockstep), 'translateMode')
      const done = dma(BUFFER)
      const translate = await peer.next(Id.translate)
      return async () => {
        peer.send(identity(translate))
        await done
      }
    },
  },
}

const PATIENCE_MS = 5_000

/** QEMU's exit code; the clock starts now. */
async function exit(withinMs: number): Promise<number | string> {
  const late = new Promise<never>((_, reject) =>
    setTimeout(() => reject(new Error(`QEMU still runs after ${withinMs} ms`)), withinMs),
  )
  late.catch(() => {})
  return Promise.race([machine.exit(), late])
}

/** Asks the model in one go to consume a full queue time and again, which takes it many seconds. */
async function keepBusy(): Promise<void> {
  await ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_EVTQEN), 'CR0')
  await ask(hw(r.ARM_SMMU_CMDQ_BASE, BigInt(CMDQ) | BigInt(BUSY_LOG2), 8), 'CMDQ_BASE')
  const all = new Uint32Array(4 << BUSY_LOG2)
  for (let i = 0; i < all.length; i += 4) cfgiAll(all.subarray(i, i + 4))
  await ask((out, seq) => encodeMemWrite(out, seq, CMDQ, new Uint8Array(all.buffer)), 'commands')
  await ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN), 'CR0')
  const posts = Array.from({ length: BUSY_POSTS }, (_, i): Encode => {
    const to = i % 2 === 0 ? 1 << BUSY_LOG2 : 0
    return (out, seq) => encodeHwPost(out, seq, 0, r.ARM_SMMU_CMDQ_PROD, to, r.ARM_SMMU_CMDQ_CONS, to, to)
  })
  peer.send(...posts)
}

async function serveAll(place: Place): Promise<void> {
  for (const [, request] of REQUESTS) await request(place)
}

/** Before `welcome` there is no ring. */
const EVERYWHERE = TRANSPORTS.flatMap(how =>
  Object.entries(PLACES)
    .filter(([name]) => how === 'the socket' || name !== 'hello')
    .map(([name, place]) => [name, how, place] as const),
)

describe.each(EVERYWHERE)('in %s, over %s', (_, how, place) => {
  beforeEach(() => {
    transport = how
  })

  test('each request of the server is served', async () => {
    const leave = await place.enter()
    await serveAll(place)
    await leave()
    // QEMU is well afterwards: the guest's accesses reach the server, and the server is served.
    const read = machine.qtest.read(SMMU, 4)
    const trap = await peer.next(Id.trapRead)
    await serveAll(place)
    peer.reply(trap, 7)
    expect(await read).toBe(7n)
  })

  test('quit ends QEMU with its code', async () => {
    await place.enter()
    peer.send((out, seq) => encodeQuit(out, seq, 7, ''))
    expect(await exit(2_000)).toBe(7)
  })

  test('SIGTERM ends QEMU at once, also when the server has asked for time without limit', async () => {
    await place.enter()
    if (place.asked) peer.send((out, seq) => encodeHold(out, seq))
    machine.kill('SIGTERM')
    expect(await exit(2_000)).toBe(place.starting ? 'SIGTERM' : 0)
  })

  test('SIGTERM ends QEMU at once, also when the server does not take its answers', async () => {
    await place.enter('reply-timeout-ms=60000')
    peer.stopReading()
    for (let i = 0; i < 64; i++) peer.send((out, seq) => encodeMemRead(out, seq, RAM, 1_000_000))
    await new Promise(resolve => setTimeout(resolve, 200))
    machine.kill('SIGTERM')
    expect(await exit(2_000)).toBe(place.starting ? 'SIGTERM' : 0)
  })

  test('SIGTERM ends QEMU at once, also when the server keeps it busy', async () => {
    await place.enter()
    await keepBusy()
    await new Promise(resolve => setTimeout(resolve, 200))
    machine.kill('SIGTERM')
    expect(await exit(2_000)).toBe(place.starting ? 'SIGTERM' : 0)
  })

  test.runIf(place.asked)('the time for the answer is not prolonged by a server that keeps QEMU busy', async () => {
    await place.enter('reply-timeout-ms=2000')
    await keepBusy()
    expect(await exit(2_000 + PATIENCE_MS)).toBe(1)
    expect(machine.errors).toContain('no answer within 2000 ms')
  })
})

/** The frame is no place for tables: a translation that traps would ask the server with the model's lock held. */
describe('what the guest has placed on the frame is out of the SMMU’s reach', () => {
  const event = async () => {
    const { record0Hi, record0Lo, record1Hi, record1Lo } = await peer.next(Id.event)
    return decodeEvent(Uint32Array.of(record0Lo, record0Hi, record1Lo, record1Hi, 0, 0, 0, 0)).id
  }
  const servedAfterwards = async () => {
    const idle = { asked: false, enter: () => Promise.reject(new Error('is there')) }
    await serveAll(idle)
    expect(peer.unread.filter(({ type }) => type === Id.trapRead || type === Id.trapWrite)).toEqual([])
  }

  test.each([
    ['stream table', EVT_ID_STE_FETCH_FAULT, () => ask(hw(r.ARM_SMMU_STRTAB_BASE, BigInt(SMMU), 8), 'STRTAB_BASE')],
    [
      'level 1 stream table',
      EVT_ID_STE_FETCH_FAULT,
      async () => {
        await ask(hw(r.ARM_SMMU_STRTAB_BASE, BigInt(SMMU), 8), 'STRTAB_BASE')
        await ask(hw(r.ARM_SMMU_STRTAB_BASE_CFG, (1 << 16) | (6 << 6) | 16), 'STRTAB_BASE_CFG')
      },
    ],
    ['context descriptor', EVT_ID_CD_FETCH_FAULT, () => program(stage1(SMMU))],
    [
      'stage 1 table',
      EVT_ID_WALK_EABT,
      async () => {
        await ask(write(CD, [...cd(SMMU), 0n, 0xffn, 0n, 0n, 0n, 0n]), 'CD')
        await program(stage1(CD))
      },
    ],
  ])('%s', async (_name, id, place) => {
    await ready([])
    await ask(hw(r.ARM_SMMU_CR0, r.CR0_CMDQEN), 'CR0')
    await place()
    await ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN), 'CR0')
    const done = dma(BUFFER)
    expect(await event()).toBe(id)
    await done
    await servedAfterwards()
  })

  test('event queue', async () => {
    await ready([])
    await ask(hw(r.ARM_SMMU_CR0, r.CR0_CMDQEN), 'CR0')
    await ask(hw(r.ARM_SMMU_EVTQ_BASE, BigInt(SMMU) | 7n, 8), 'EVTQ_BASE')
    await ask(hw(r.ARM_SMMU_STRTAB_BASE, BigInt(SMMU), 8), 'STRTAB_BASE')
    await ask(hw(r.ARM_SMMU_CR0, r.CR0_SMMUEN | r.CR0_CMDQEN | r.CR0_EVTQEN), 'CR0')
    const done = dma(BUFFER)
    expect((await peer.next(Id.gerror)).gerror & r.GERROR_EVTQ_ABT_ERR).toBe(r.GERROR_EVTQ_ABT_ERR)
    await done
    await servedAfterwards()
  })

  test('command queue', async () => {
    await ready([])
    await ask(hw(r.ARM_SMMU_CR0, 0), 'CR0')
    await ask(hw(r.ARM_SMMU_CMDQ_BASE, BigInt(SMMU) | BigInt(CMDQ_LOG2), 8), 'CMDQ_BASE')
    await ask(hw(r.ARM_SMMU_CR0, r.CR0_CMDQEN), 'CR0')
    peer.send(hw(r.ARM_SMMU_CMDQ_PROD, 1))
    expect((await peer.next(Id.gerror)).gerror & r.GERROR_CMDQ_ERR).toBe(r.GERROR_CMDQ_ERR)
    expect((await peer.next(Id.done)).status).toBe(OK)
    peer.send((out, seq) => encodeHwRead(out, seq, 0, r.ARM_SMMU_CMDQ_CONS, 4))
    expect(((await peer.next(Id.done)).valueLo >>> 24) & 0x7f).toBe(r.CMDQ_ERR_CERROR_ABT_IDX)
  })
})

test.each([
  // Events of one access do not fit into the ring; into the buffers of a socket go those of some.
  ['a ring', 1],
  ['the socket', 40],
] as const)(
  'over %s, a request that comes while a notice waits for room is served afterwards',
  async (how, accesses) => {
    transport = how
    await ready([])
    await ask(write(STRTAB + EDU_SID * 64, [0n, 0n]), 'STE')
    await ask((out, seq) => encodeInvalidate(out, seq, 0, enums.invalidateScope.all[0], 0), 'invalidate')
    peer.stopReading()
    let over = false
    const faults = (async () => {
      for (let i = 0; i < accesses; i++) await edu.dmaRead(BUFFER, 4096)
      over = true
    })()
    await new Promise(resolve => setTimeout(resolve, 1_000))
    expect(over).toBe(false)
    peer.send((out, seq) => encodeHwRead(out, seq, 0, r.ARM_SMMU_IDR0, 4))
    // QEMU takes it, as it may be what keeps the server from reading.
    await new Promise(resolve => setTimeout(resolve, 200))
    peer.readAgain()
    await faults
    expect((await peer.next(Id.done)).status).toBe(OK)
  },
)

test('with an I/O thread, only the model translates: a device there would wait for who waits for it', async () => {
  const starting = machine.start({ args: ['-object', 'iothread,id=io0'] })
  const hello = await peer.next(Id.hello)
  expect(hello.features & enums.feature.translate[0]).toBe(0)
  peer.welcome(hello)
  peer.reply(await peer.next(Id.reset))
  await starting
  await unsupported(mode(MODE.server), 'server')
  await unsupported(mode(MODE.lockstep), 'lockstep')
  await ask(mode(MODE.hardware), 'hardware')
})
