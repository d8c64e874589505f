// SPDX-License-Identifier: Apache-2.0
/** Every command of `ctl` against a real server, and every route of the API by one of them. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command, CommanderError } from 'commander'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Inspection } from '../../../server/api/inspection.ts'
import { heldText } from '../../../server/cli/ctl/lifecycle.ts'
import { ctlCommand } from '../../../server/cli/ctl.ts'
import { walkCommand } from '../../../server/cli/walk.ts'
import { POLICY_NAMES } from '../../../server/policy/load.ts'
import * as R from '../../../server/smmu/registers.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import type { OracleReport } from '../../../server/trap/oracleReport.ts'
import { campaignFile } from '../sessions/campaignFile.ts'
import { type Harness, startApp } from './harness.ts'

const RAM = 0x4000_0000
const STRTAB = RAM + 0x1000
const TABLE = RAM + 0x4000
const QUEUE = RAM + 0x8000
const STREAM_BYPASSED = 9n // V, Config bypass

let server: Harness
const files = mkdtempSync(join(tmpdir(), 'cosim-ctl-'))
const download = join(files, 'trace')
/** `METHOD /path` of every request that was made. */
const requests = new Set<string>()
/** Subcommands that were run. */
const used = new Set<string>()

const words = (...values: bigint[]) => new Uint8Array(BigUint64Array.from(values).buffer)

beforeAll(async () => {
  server = await startApp({ qmp: true })
  const { qemu } = server
  qemu.registers.set(R.ARM_SMMU_IDR0, R.IDR0_S1P | R.IDR0_S2P | (R.IDR0_TTF_AARCH64 << 2))
  qemu.registers.set(R.ARM_SMMU_IDR1, 8)
  qemu.registers.set(R.ARM_SMMU_IDR5, R.IDR5_GRAN4K | 2)
  qemu.registers.set(R.ARM_SMMU_STRTAB_BASE_CFG, 4)
  qemu.wide.set(R.ARM_SMMU_STRTAB_BASE, [STRTAB, 0])
  server.poke(STRTAB + 8 * 64, words(STREAM_BYPASSED))
  server.poke(TABLE, words(0n, 0x4000_5003n))
  server.poke(RAM, Buffer.from('sixteen bytes ...'))
  const phase = async (wanted: string) => {
    while (server.manager.status().phase !== wanted) await new Promise(resolve => setTimeout(resolve, 5))
  }
  server.say('hello from the guest\n')
  const attack = { who: 'cpu', what: 'read', target: 'secret', address: '0x48000000', result: 'SIGSEGV' }
  server.say(`@cosim ${JSON.stringify({ seq: 1, event: 'attack', ok: true, ...attack })}\n`)
  await phase('kernel')
  await qemu.write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN)
  await phase('smmu')
  await qemu.write(R.ARM_SMMU_GBPA, 4, 5)
  qemu.event(0x10, 8)
  // After the event on the same socket.
  await qemu.read(R.ARM_SMMU_GBPA, 4)
  const { fetch } = globalThis
  vi.spyOn(globalThis, 'fetch').mockImplementation((input, init) => {
    requests.add(`${init?.method ?? 'GET'} ${new URL(String(input)).pathname}`)
    return fetch(input, init)
  })
  await server.settle()
})
afterAll(async () => {
  vi.restoreAllMocks()
  await server.close()
  rmSync(files, { recursive: true, force: true })
})

function program(errors: (text: string) => void): Command {
  const all = new Command('smmu-cosim').exitOverride().configureOutput({ writeErr: errors, writeOut: () => {} })
  ctlCommand(all)
  walkCommand(all)
  for (const command of all.commands.flatMap(c => [c, ...c.commands])) command.exitOverride()
  return all
}

/** The command line in this process. @param shown called with what it prints, as it comes. */
async function run(args: readonly string[], shown: (out: string) => void = () => {}) {
  let out = ''
  let err = ''
  const print = (text: string) => {
    out += text
    shown(out)
    return true
  }
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(text => print(String(text))),
    vi.spyOn(console, 'log').mockImplementation(text => void print(`${text}\n`)),
    vi.spyOn(console, 'error').mockImplementation(text => {
      err += `${text}\n`
    }),
  ]
  try {
    await program(text => {
      err += text
    }).parseAsync(args, { from: 'user' })
    return { code: Number(process.exitCode ?? 0), out, err }
  } catch (error) {
    if (error instanceof CommanderError) return { code: error.exitCode, out, err }
    throw error
  } finally {
    process.exitCode = undefined
    for (const spy of spies) spy.mockRestore()
  }
}

function ctl(...args: string[]) {
  used.add(String(args[0]))
  return run(['ctl', '--url', server.url, ...args])
}

const state = async (wanted: string) => {
  while (server.manager.status().state !== wanted) await new Promise(resolve => setTimeout(resolve, 5))
}

test('oracle: nothing found, something found, nothing judged, nobody who looks', async () => {
  const violation = { kind: 'tables: stage 2', message: 'virtio-blk: it maps 0x58000000', walk: ['STRTAB_BASE 0x0'] }
  const report = { samples: 7, wholes: 2, hypervisorPages: 3, vmPages: 1, violations: [violation], more: 4 }
  const sampleUs = { p50: 1, p90: 2, p99: 3, max: 4 }
  const spy = vi.spyOn(Inspection.prototype, 'oracle')
  const said = async (answer: OracleReport | null) => {
    spy.mockResolvedValueOnce(answer)
    const { code, out } = await ctl('oracle')
    return [code, ...out.trimEnd().split('\n')]
  }
  const counts = ['7 samples, 2 looks at all of it', '3 pages of the hypervisor, 1 of VMs']
  const clean = { ...report, violations: [], more: 0, sampleUs }
  expect(await said(clean)).toEqual([0, 'isolation is judged', ...counts, 'nothing was found'])
  const found = ['5 violations', violation.message, '  STRTAB_BASE 0x0']
  expect(await said({ ...report, sampleUs })).toEqual([1, 'isolation is judged', ...counts, ...found])
  expect((await said({ ...clean, unjudged: 'it was saved' })).slice(0, 2)).toEqual([
    1,
    'nothing is judged: it was saved',
  ])
  expect(await said(null)).toEqual([1, 'the machine is not watched'])
  spy.mockRestore()
})

test.each<[string[], RegExp]>([
  [['status'], /^running, smmu \(attack\), passthrough nested, none$/m],
  [['info'], new RegExp(`^policies +${POLICY_NAMES.join(' ')}$`, 'm')],
  [['counters'], /"traps": 3/],
  [['traps', '--limit', '5'], /^ +2 +\S+ W GBPA +0x5 /m],
  [['traps', '--register', 'GBPA', '--access', 'read', '--limit', '1'], /^ +3 +\S+ R GBPA/],
  [['trap', '2'], /W CR0 .*\n +hardware +W CR0/],
  [['rates'], /run 1 {2}\d+$|^none$/m],
  [['recordings'], /^none$/m],
  [['campaigns'], /^none$/m],
  [['timeline', '--bins', '1'], /^ +\d+\.\d{6} s +\d+ traps$/m],
  [['events'], /F_TRANSLATION/],
  [['warnings'], /^none$/m],
  [['registers'], /^GBPA +0x5 +0x5/m],
  [['queues'], /^host: 1 entries at 0x0, PROD 0 CONS 0$/m],
  [['streams'], /^0x8 +- +bypass$/m],
  [['stream', '8'], /^host +0x40001200 {2}V bypass/m],
  [['table', '0x40004000', '--level', '1'], /^ +1 0x40000000 +table 0x40005000/m],
  [['reach'], /^0x8 bypass$/m],
  [['el2'], /^the machine has no EL2$/m],
  [['attacks'], /^cpu read {2}secret {5}0x48000000 {2}SIGSEGV {9}stopped by EL2: SIGSEGV$/m],
  [['walk', '--sid', '8', '--iova', '0x1000'], /^STE .*\ntranslated: bypass to 0x1000$/m],
  [['walk', '--sid', '7', '--iova', '0x1000', '--write', '--table', 'host'], /C_BAD_STE/],
  [['memory', '0x40000000', '--length', '16'], /40000000 {2}73697874 65656e20 .* sixteen bytes \.\./],
  [['console'], /hello from the guest/],
  [['type', 'ls'], /^$/],
  [['breakpoints'], /^none$/m],
  [['held'], /^none$/m],
  [['metrics'], /^smmu_cosim_traps_total\{register="GBPA",access="write"\} 1$/m],
  [['metrics'], /^smmu_cosim_smmu_traps_total\{smmu="0",access="write"\} [1-9]\d*$/m],
  [['metrics'], /^smmu_cosim_smmu_commands_total\{smmu="0",verdict="kept"\} \d+$/m],
  [['qmp', 'query-status'], /"query-status"/],
  [['wait', 'kernel', '--timeout', '1'], /^running, smmu/],
])('ctl %j', async (args, expected) => {
  const { code, out, err } = await ctl(...args)
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(expected)
})

test('what is asked of QEMU and typed arrives there', async () => {
  for (const action of ['pause', 'resume', 'reset', 'power-off']) {
    const { code, out } = await ctl(action)
    expect([code, out]).toEqual([0, expect.stringContaining(action === 'pause' ? 'paused' : 'running')])
  }
  expect(server.qmp).toEqual(['query-status', 'stop', 'cont', 'system_reset', 'system_powerdown'])
  expect(server.typed()).toBe('ls\n')
})

test('campaigns: which there are, what came of one, what has changed with another', async () => {
  campaignFile(join(server.folder, 'campaigns.db'))
  expect((await ctl('campaigns')).out).toMatch(
    /^3 .* 0 of 10 done, 0 as expected {2}interrupted\n2 .* 10 of 10 done, 2 as expected {2}after\n1 /,
  )
  const lines = (await ctl('campaigns', '2')).out.trimEnd().split('\n')
  expect([lines.length, lines[0], lines[9]]).toEqual([
    10,
    'tlbi-late  6.12  nested  seed 1  guest-hung, expected recovered',
    'tlbi-late  6.12  nested  seed 10  recovered',
  ])
  expect((await ctl('campaigns', '3')).out).toBe('none\n')
  expect((await ctl('campaigns', '1', '--with', '2')).out).toMatch(/^tlbi-late 6\.12 nested: worse, p = /)
  for (const [args, code, expected] of [
    [['4'], 1, /no campaign 4$/m],
    [['0'], 1, /id/],
    [['two'], 1, /expected a whole number/],
    [['1', '--with', 'two'], 1, /expected a whole number/],
    [['--with', '2'], 2, /campaigns ID --with OTHER/],
  ] as const) {
    const refused = await ctl('campaigns', ...args)
    expect([refused.code, refused.out]).toEqual([code, ''])
    expect(refused.err).toMatch(expected)
  }
})

test('a device comes, into the one slot that there is, and goes', async () => {
  const device = async (...args: string[]) => {
    const { code, out, err } = await ctl('device', ...args)
    return [code, code === 0 ? out.trim() : err]
  }
  expect(await device('list')).toEqual([0, 'none'])
  expect(await device('add', 'nvme')).toEqual([0, 'slot0.nvme'])
  expect(await device('list')).toEqual([0, 'slot0.nvme'])
  expect(await device('add', 'e1000e')).toEqual([1, expect.stringContaining('no slot is free')])
  expect(await device('remove', 'slot0.nvm')).toEqual([1, expect.stringContaining('there are slot0.nvme')])
  expect(await device('remove', 'slot0.nvme')).toEqual([0, ''])
  expect(await device('list')).toEqual([0, 'none'])
  expect(server.qmp.slice(-4)).toEqual(['blockdev-add', 'device_add', 'device_del', 'blockdev-del'])
  expect(await device('add', 'abacus')).toEqual([2, expect.stringContaining('one of virtio-blk, nvme')])
  expect(await device('remove')).toEqual([2, expect.stringContaining('device remove NAME')])
})

test('gdb: what to type, with a socket and with a port', async () => {
  const { out } = await ctl('gdb')
  expect(out).toMatch(/^gdb-multiarch -ex 'target remote \/run\/gdb'\nno symbols: /)
  expect((await ctl('gdb', '--port', '1234')).out).toContain('target remote 127.0.0.1:1234')
})

test('traps: as far back as there are any, over as many answers as it takes, and how far that was', async () => {
  const { traps } = server.manager.history
  const row = traps.last(1, { registers: ['GBPA'] }).items[0]
  const newest = 50_000
  const next = vi.spyOn(traps, 'next', 'get').mockReturnValue(newest + 1)
  // One answer is of 20,000 rows; what matches is row 7.
  const last = vi.spyOn(traps, 'last').mockImplementation((_max, _filter, before = newest + 1) => {
    const from = Math.max(1, before - 20_000)
    return { from, items: row !== undefined && from <= 7 && before > 7 ? [row] : [] }
  })
  const found = await ctl('traps', '--command', 'CFGI_STE')
  expect(found.out).toMatch(/^ +\d+ +\S+ [RW] GBPA /)
  expect(found.err).toBe('smmu-cosim: 1 row matches: looked through 1 to 50,000\n')
  expect(last.mock.calls.map(([, , before]) => before)).toEqual([undefined, 30_001, 10_001])
  // No further back than it takes.
  last.mockClear()
  const one = await ctl('traps', '--limit', '1', '--json')
  expect([JSON.parse(one.out).items.length, one.err]).toEqual([1, ''])
  for (const spy of [next, last]) spy.mockRestore()
})

test('traps: what is neither in memory nor recorded is said', async () => {
  const { history } = server.manager
  const next = vi.spyOn(history.traps, 'next', 'get').mockReturnValue(60_001)
  const oldest = vi.spyOn(history.traps, 'oldest', 'get').mockReturnValue(40_001)
  const last = vi.spyOn(history.traps, 'last').mockImplementation(() => ({ from: 40_001, items: [] }))
  // Nothing of this machine is in the recording at these rows.
  const recorded = vi.spyOn(history.past, 'last').mockImplementation(async (_max, _filter, before) => {
    const from = Math.max(1, before - 20_000)
    return { from, items: [], missing: from < 20_001 ? 20_000 : 0 }
  })
  expect(await ctl('traps', '--register', 'GBPA')).toMatchObject({
    out: 'none\n',
    err: 'smmu-cosim: 0 rows match: looked through 1 to 60,000, 20,000 of them neither in memory nor in a recording\n',
  })
  for (const spy of [next, oldest, last, recorded]) spy.mockRestore()
})

test('a breakpoint is on what its one option says; on a function only of a kernel that is known', async () => {
  expect((await ctl('break', '--sid', '8')).out).toContain('StreamID 0x8')
  await ctl('unbreak', '1')
  const [none, two] = [await ctl('break'), await ctl('break', '--sid', '8', '--event', 'F_STE_FETCH')]
  for (const { code, err } of [none, two]) expect([code, err]).toEqual([2, expect.stringContaining('expected one of')])
  const { code, err } = await ctl('break', '--function', 'arm_smmu_attach_dev')
  expect([code, err]).toEqual([1, expect.stringContaining('not known what kernel runs')])
})

test('breakpoints: set, switch, hold, look, change, go on, remove', async () => {
  const { qemu } = server
  const set = await ctl('break', 'register', '--register', 'GBPA', '--access', 'write', '--value', '0x1')
  expect(set.out).toBe('  2   write of GBPA with value = 0x1 (0 matches)\n')
  await ctl('disable', '2')
  expect((await ctl('breakpoints')).out).toMatch(/^ {2}2 off write of GBPA/)
  await ctl('enable', '2')
  const write = qemu.write(R.ARM_SMMU_GBPA, 4, 1)
  await state('held')
  expect((await ctl('held')).out).toMatch(
    /^held: trap 4, write of GBPA \(0x44\): 0x1 MemAttr=1, before the decision, breakpoint 2\n$/,
  )
  expect((await ctl('status')).out).toMatch(/^held, /)
  await ctl('step', '--value', '0x9')
  await write
  expect(qemu.registers.get(R.ARM_SMMU_GBPA)).toBe(9)
  for (const [action, read] of [
    ['continue', 9],
    ['drop', 0],
    ['abort', undefined],
  ] as const) {
    await ctl('hold')
    const answer = qemu.read(R.ARM_SMMU_GBPA, 4)
    await state('held')
    await ctl(action)
    expect(await answer).toMatchObject(read === undefined ? { status: 1 } : { status: 0, valueLo: read })
  }
  await ctl('hold')
  await ctl('hold', '--off')
  await qemu.read(R.ARM_SMMU_GBPA, 4)
  expect((await ctl('unbreak', '2')).code).toBe(0)
  expect((await ctl('breakpoints')).out).toBe('none\n')
})

test('held: the commands that a write of CMDQ_PROD hands over, and who stopped it', async () => {
  const { qemu } = server
  qemu.wide.set(R.ARM_SMMU_CMDQ_BASE, [(QUEUE | 3) >>> 0, 0])
  server.poke(QUEUE, words(0x8_0000_0003n, 1n, 0x46n, 0n))
  await ctl('hold')
  const write = qemu.write(R.ARM_SMMU_CMDQ_PROD, 4, 2)
  await state('held')
  const text =
    /^held: trap \d+, write of CMDQ_PROD \(0x98\): 0x2.*, before the decision, stopped by hand\n +0 CFGI_STE sid=0x8.*\n +1 (CMD_)?SYNC.*\n$/
  expect((await ctl('held')).out).toMatch(text)
  await ctl('continue')
  await write
  const trap = { seq: 7, smmu: 0, cpu: 0, write: true, offset: 0x98, size: 4, lo: 2, hi: 0, time: 0, pcLo: 0, pcHi: 0 }
  const held = (hit: object) =>
    heldText({ hit: { breakpoint: 3, phase: 'before', ...hit }, trap: { ...trap, aborted: false }, callers: [] })
  expect(held({ command: [3, 8, 1, 0] })).toMatch(/, breakpoint 3 \(CFGI_STE sid=0x8.*\)$/)
  expect(held({ warning: 'HYP_UNMAP' })).toMatch(/, breakpoint 3 \(HYP_UNMAP\)$/)
  expect(held({ event: 0x10, late: true })).toMatch(/, breakpoint 3 \(F_TRANSLATION\), after an event between traps$/)
})

test('faults: list, arm from the catalogue and from a file, fire, disarm', async () => {
  const { qemu } = server
  expect((await ctl('faults')).out).toBe('nothing is armed\n')
  expect((await ctl('fault-effect')).out).toBe('nothing was armed\n')
  expect((await ctl('fault-list')).out).toMatch(/^cr0ack-stuck +guest-hung: CR0ACK never follows/m)
  expect((await ctl('fault-arm', 'irq-ctrlack-stuck')).out).toBe(
    'irq-ctrlack: at register (register ARM_SMMU_IRQ_CTRLACK, access read) do set (value 0), always; 0 matches, fired 0 times\n',
  )
  qemu.registers.set(R.ARM_SMMU_IRQ_CTRLACK, 7)
  expect(await qemu.read(R.ARM_SMMU_IRQ_CTRLACK, 4)).toMatchObject({ valueLo: 0 })
  expect((await ctl('faults')).out).toMatch(
    /1 match, fired 1 time\n {2}irq-ctrlack 1, trap \d+: read of IRQ_CTRLACK: 0x7 → 0x0\n$/,
  )
  const trap = /trap (\d+):/.exec((await ctl('faults')).out)?.[1] ?? ''
  await expect
    .poll(async () => (await ctl('trap', '--numbered', trap)).out)
    .toMatch(/R IRQ_CTRLACK .*\n(.*\n)* +fault /)
  expect((await ctl('fault-effect')).out).toMatch(/^before \(.*\): \d+ traps, .*\nsince {2}\(.*\): 1 trap, 0 aborted/)
  const file = join(files, 'rules.yaml')
  writeFileSync(file, 'rules: [{ name: now, where: { at: machine }, what: { do: delay, ms: 1 } }]')
  expect((await ctl('fault-arm', file, '--seed', '7')).out).toMatch(/^now: at machine do delay/)
  expect(await qemu.read(R.ARM_SMMU_IRQ_CTRLACK, 4)).toMatchObject({ valueLo: 7 })
  expect((await ctl('fault-fire', 'now')).code).toBe(0)
  expect((await ctl('faults')).out).toMatch(/now 1, trap \d+: 1 ms/)
  expect((await ctl('fault-disarm')).code).toBe(0)
  expect((await ctl('faults')).out).toBe('nothing is armed\n  now 1, trap 0: 1 ms\n')
})

test('an attack: start, look at it and at what it found, stop', async () => {
  expect((await ctl('attack')).out).toBe('no attack was started\n')
  const started = await ctl(
    'attack-start',
    '--quirk',
    'queues-unshared',
    '--hardware',
    'msi,pri',
    '--seed',
    '1',
    '--seconds',
    '600',
  )
  expect(started.out).toMatch(/^running: pkvm with queues-unshared, hardware msi,pri, seed 1\n/)
  await expect.poll(async () => (await ctl('attack')).out).toMatch(/\n {2}1 [\d.]+ s \S.*: /)
  expect((await ctl('attack-finding', '1')).out).toMatch(/\n {2}0: .*\n(.*\n)* {2}found: /)
  expect((await ctl('attack-stop')).out).toMatch(/^done: pkvm with queues-unshared/)
})

test('an attack on shared tables says so', async () => {
  const started = await ctl('attack-start', '--stage2', 'shared', '--seed', '1', '--seconds', '600')
  expect(started.out).toMatch(/^running: pkvm, EL2's tables shared \(mapped ahead or never\), hardware none, seed 1\n/)
  expect((await ctl('attack-stop')).out).toMatch(/^done: /)
  const never = await ctl('attack-start', '--stage2', 'shared', '--populate', 'never', '--seconds', '600')
  expect(never.out).toMatch(/^running: pkvm, EL2's tables shared \(never\), /)
  expect((await ctl('attack-stop')).code).toBe(0)
})

test('download: a recording', async () => {
  // A recording is written a fraction of a second behind.
  await expect
    .poll(async () => {
      await server.qemu.read(R.ARM_SMMU_GBPA, 4)
      expect(await ctl('download', download)).toEqual({ code: 0, out: '', err: '' })
      const reader = TraceReader.open(download)
      const traps = [...reader.records()].filter(({ kind }) => kind === 'trap').length
      return reader.problems.length === 0 && traps > 2
    })
    .toBe(true)
})

test('--json is what the API answers', async () => {
  const { out } = await run(['ctl', '--url', server.url, '--json', 'status'])
  expect(JSON.parse(out)).toMatchObject({ state: 'running', phase: 'smmu' })
})

test.each<[string[], RegExp]>([
  [['start', '--policy', 'pkvm', '--smp', '2'], /a machine is running/],
  [['replay', 'nothing'], /no recording nothing/],
  [['compare', 'nothing', 'either'], /no recording nothing/],
  [['donate', '--base', '0x40000000', '--size', '4K', '--vm', '1'], /no pages|owner|passthrough/],
  [['reclaim', '--base', '0x40000000', '--size', '4K', '--vm', '1'], /no pages|owner|passthrough/],
  [['ownership', '--from', '0x40000000'], /owner|passthrough/],
  [['power', 'off'], /--power/],
  [['power'], /--power/],
  [['qmp', 'quit'], /command/],
  [['trap', '99999'], /no trap row/],
  [['stream', 'x'], /sid/],
  [['wait', 'done', '--timeout', '0'], /still smmu after 0 s/],
  [['walk', '--sid', 'x', '--iova', '0'], /expected a whole number/],
  [['memory', '0x0'], /not all of it is RAM/],
  [['continue'], /no trap is held/],
  [['fault-arm', 'cr0ack-stuk'], /did you mean cr0ack-stuck/],
  [['fault-arm', 'sync-lost'], /policy passthrough lacks what this needs: a command queue of its own/],
  [['fault-fire', 'nobody'], /no rule nobody is armed/],
  [['attack-start', '--hardware', 'steam'], /hardware/],
  [['attack-start', '--populate', 'never'], /populate: only with stage2 shared/],
  [['attack-stop'], /no attack runs/],
  [['attack-finding', '999'], /no finding 999 is kept/],
  [['download', join(files, 'none'), '--of', 'nothing'], /no recording nothing/],
  [['download', '/nowhere/at/all'], /its folder does not exist/],
])('ctl %j: refused, in one line', async (args, expected) => {
  const { code, out, err } = await ctl(...args)
  expect(err).toMatch(expected)
  expect(err.trimEnd().split('\n').length).toBe(1)
  expect([code, out]).toEqual([1, ''])
})

test.each([['start'], ['attack-start']])('%s with a quirk that there is not: the server is not asked', async name => {
  const { code, err } = await ctl(name, '--quirk', 'queue-unshared')
  expect(err).toMatch(/policy pkvm has no quirk "queue-unshared": did you mean queues-unshared\?/)
  expect(code).toBe(2)
})

test('a phase that there is not', async () => {
  const { code, err } = await ctl('wait', 'lunch')
  expect(err).toMatch(/no phase lunch/)
  expect(code).toBe(2)
})

test('no server, or no URL', async () => {
  expect((await run(['ctl', '--url', 'http://127.0.0.1:1/', 'status'])).err).toMatch(/no server at http:/)
  expect((await run(['ctl', '--url', 'nonsense', 'status'])).err).toMatch(/not a URL/)
  const walk = await run(['walk', '--url', server.url, '--sid', '8', '--iova', '0x1000'])
  expect(walk.out).toMatch(/bypass to 0x1000/)
})

test('--follow goes on with what comes, until the server ends; kill, and wait for it', async () => {
  let first = () => {}
  const seen = new Promise<void>(resolve => {
    first = resolve
  })
  const follow = run(['ctl', '--url', server.url, 'traps', '--follow', '--limit', '0'], first)
  // It sees what comes once it follows, and nobody knows from outside when that is.
  const writing = setInterval(() => void server.qemu.write(R.ARM_SMMU_CR0, 4, 0).catch(() => {}), 100)
  await seen
  clearInterval(writing)
  expect((await ctl('kill')).out).toMatch(/^off\nlast run: killed/)
  expect((await ctl('wait', 'off')).code).toBe(0)
  await server.close()
  const { code, out } = await follow
  expect([code, out]).toEqual([0, expect.stringMatching(/ W CR0 /)])
})

/** What no command asks for: probes ask the first, tools that make clients the second. */
const WITHOUT = ['GET /health', 'GET /api/v1/openapi.json', 'GET /api/v1/openapi-3.0.json', 'GET /api/v1/asyncapi.json']

test('every command was run, and every route of the API has one', () => {
  const [commands] = program(() => {}).commands
  expect(commands?.commands.map(c => c.name()).filter(name => !used.has(name))).toEqual([])
  const { paths } = server.app.swagger() as unknown as { paths: Record<string, Record<string, object>> }
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map(method => `${method.toUpperCase()} ${path}`),
  )
  const reached = (route: string) => {
    const pattern = new RegExp(`^${route.replace(/\{\w+\}/g, '[^/]+')}$`)
    return [...requests].some(request => pattern.test(request))
  }
  expect(routes.filter(route => !reached(route)).sort()).toEqual([...WITHOUT].sort())
})
