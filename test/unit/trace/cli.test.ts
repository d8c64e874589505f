// SPDX-License-Identifier: Apache-2.0
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { Command, CommanderError } from 'commander'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { traceCommand } from '../../../server/cli/trace.ts'
import { recordedMachine } from '../../../server/trace/recordedMachine.ts'
import { verdict } from '../../../server/trace/records.ts'
import { bootRecording, header, recording, scriptedBoot, trap } from './synthetic.ts'

const files = mkdtempSync(join(tmpdir(), 'smmu-cosim-trace-cli-'))
const boot = join(files, 'boot')
const other = join(files, 'other')
const map = join(files, 'System.map')

beforeAll(async () => {
  await bootRecording(boot)
  await bootRecording(other, {}, bench => {
    scriptedBoot(bench, 21)
    bench.read(0x1f4)
  })
  const pc = (BigInt(trap.pcHi) << 32n) | BigInt(trap.pcLo)
  const line = (address: bigint, name: string) => `${address.toString(16)} t ${name}\n`
  writeFileSync(map, line(pc - 0x34n, 'arm_smmu_cmdq_issue_cmdlist') + line(pc + 0x100n, 'next_function'))
})
afterAll(() => rmSync(files, { recursive: true, force: true }))

/** The command line in this process: what it prints, and its exit code. */
async function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = ''
  let err = ''
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text: unknown, ...rest: unknown[]) => {
    out += text
    const done = rest.at(-1) as (() => void) | undefined
    done?.()
    return true
  })
  const log = vi.spyOn(console, 'log').mockImplementation(text => {
    out += `${text}\n`
  })
  const error = vi.spyOn(console, 'error').mockImplementation(text => {
    err += `${text}\n`
  })
  const program = new Command('smmu-cosim').exitOverride().configureOutput({
    writeErr: text => {
      err += text
    },
  })
  traceCommand(program)
  try {
    await program.parseAsync(args, { from: 'user' })
    return { code: Number(process.exitCode ?? 0), out, err }
  } catch (problem) {
    if (problem instanceof CommanderError) return { code: problem.exitCode, out, err }
    throw problem
  } finally {
    process.exitCode = undefined
    for (const spy of [write, log, error]) spy.mockRestore()
  }
}

/** Output without its title and times. */
const lines = (out: string): string[] =>
  out
    .trimEnd()
    .split('\n')
    .slice(1)
    .map(line =>
      line
        .replace(/^ *[0-9]+\.[0-9]{6} /, '')
        .replace(/ +[0-9.,]+ µs/, '')
        .trim(),
    )

test('show: a stream table entry, and what was done about it', async () => {
  const { code, out, err } = await run('trace', 'show', boot, '--sid', '8')
  expect([code, err]).toEqual([0, ''])
  expect(out).toMatch(/^# 2026-01-02T03:04:05.000Z {2}policy pkvm, kernel 6.12.0-test-arm64, 2 vCPUs, QEMU 10.0.0\n/)
  const found = lines(out)
  expect(found[0]).toBe('#25 cpu0 W CMDQ_PROD        0x6        index=6')
  expect(found).toContain('host cmd  CFGI_STE sid=0x8 leaf')
  expect(found).toContain('host cmd  SYNC cs=sev')
  expect(found).toContain('pages     share 0x40500000 +4 pages')
  expect(found).toContain('stream    sid 0x8: host s1, shadow nested')
  expect(found).toContain('host   V s1 S1ContextPtr=0x41400000 S1CIR=1 S1COR=1 S1CSH=3 SHCFG=1 S2VMID=0')
  expect(found.filter(line => /^shadow V nested S1ContextPtr=0x41400000 .* S2TTB=0x/.test(line)).length).toBe(1)
  expect(found.filter(line => line.startsWith('memory')).length).toBe(0)
})

test.each([
  [['--register', 'CR0,cr1'], 6],
  [['--command', 'tlbi_nh_va'], 20],
  [['--seq', '3..5'], 3],
  [['--warnings'], 3],
  [['--address', '0x40600000+0x1000'], 1],
  [['--kind', 'reset'], 1],
  [['--slowest', '4'], 4],
  [['--limit', '7'], 7],
  [['--cpu', '1'], 0],
  [['--aborted'], 0],
])('show %s', async (options, count) => {
  const { code, out } = await run('trace', 'show', boot, ...options)
  expect(code).toBe(0)
  expect(lines(out).filter(line => /^(#[0-9]+ cpu|reset|request)/.test(line)).length).toBe(count)
})

test('show with symbols: the kernel function of each trap, and a filter for it', async () => {
  const symbols = ['--symbols', map, '--kaslr', '0']
  const { out } = await run('trace', 'show', boot, '--seq', '1', ...symbols)
  expect(lines(out)[0]).toMatch(/^#1 cpu0 R IDR0 .* arm_smmu_cmdq_issue_cmdlist\+0x34$/)
  expect(lines((await run('trace', 'show', boot, '--function', 'no_such', ...symbols)).out)).toEqual([])
  const folded = (await run('trace', 'flame', boot, ...symbols)).out.trimEnd().split('\n')
  expect(folded[0]).toBe('arm_smmu_cmdq_issue_cmdlist;W CMDQ_PROD 26')
  expect(folded.every(line => /^[^;]+(;[^;]+)+ [0-9]+$/.test(line))).toBe(true)
})

test('stats, for people and as JSON', async () => {
  const { code, out } = await run('trace', 'stats', boot)
  expect(code).toBe(0)
  expect(out).toMatch(/^91 accesses in /m)
  expect(out).toMatch(/^ +20 {2}TLBI_NH_VA$/m)
  expect(out).toMatch(/^ +1 {2}TLBI_EL2_ALL \(dropped\)$/m)
  const json = JSON.parse((await run('trace', 'stats', boot, '--json')).out) as Record<string, unknown>
  expect(json).toMatchObject({ traps: 91, aborted: 0, lost: 0, warnings: { HYP_UNKNOWN_REGISTER: 1 } })
})

test('stats of a machine with two SMMUs tell what each had to do', async () => {
  const two = join(files, 'two')
  const machine = { ...header.machine, smmus: [0, 1].map(n => ({ base: 0x905_0000 + n * 0x2_0000, size: 0x2_0000 })) }
  await recording(
    two,
    writer => {
      writer.trap(trap, 100, 50, 0, 0)
      writer.trap({ ...trap, seq: 2, smmu: 1, write: false }, 200, 0, 0, 0)
      writer.command(1, 0x46, verdict.own)
      writer.command(1, 0x46, verdict.rewritten)
    },
    { header: { machine } },
  )
  const { out } = await run('trace', 'stats', two)
  expect(out).toContain(
    [
      '  SMMU 0: 1 access; 0 commands of the host, 0 of the hypervisor',
      '  SMMU 1: 1 access, of which 1 answered by QEMU; 1 command of the host, 1 of the hypervisor\n',
    ].join('\n'),
  )
  const { smmus } = JSON.parse((await run('trace', 'stats', two, '--json')).out) as { readonly smmus: unknown }
  expect(smmus).toEqual([
    { smmu: 0, reads: 0, writes: 1, predicted: 0, commands: { kept: 0, rewritten: 0, dropped: 0, own: 0 } },
    { smmu: 1, reads: 1, writes: 0, predicted: 1, commands: { kept: 0, rewritten: 1, dropped: 0, own: 1 } },
  ])
  expect((await run('trace', 'stats', boot)).out).not.toContain('SMMU 0')
})

test('diff: nothing, or the first divergence first', async () => {
  const same = await run('trace', 'diff', boot, boot)
  expect([same.code, same.out]).toEqual([0, 'no difference\n'])
  const { code, out } = await run('trace', 'diff', boot, other)
  expect(code).toBe(1)
  const hunks = out.split(/^@@ .*\n/m).slice(1)
  expect(hunks.length).toBe(2)
  // One round more …
  expect(hunks[0]).toMatch(
    /^\+ +#[0-9]+ cpu0 W CMDQ_PROD .*\n\+ +host cmd {2}TLBI_NH_VA vmid=0 asid=0 addr=0x40014000\n/m,
  )
  expect(hunks[0]).not.toMatch(/^-/m)
  // … and one read more at the end.
  expect(hunks[1]).toMatch(/^\+ +#95 cpu0 R 0x1f4 /m)
  expect(out).toMatch(/^2 places; 0 decisions only in the first, 4 only in the second$/m)
})

test('export: JSON lines', async () => {
  const objects = (await run('trace', 'export', boot, '--json')).out
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line))
  expect(objects[0]).toMatchObject({ kind: 'header', policy: 'pkvm' })
  const write = objects.find(({ kind, offset }) => kind === 'trap' && offset === 0x20)
  expect(write).toMatchObject({
    write: 1,
    lo: 0,
    register: 'CR0',
    value: '0x0',
    words: expect.stringContaining('W CR0'),
  })
  const traps = objects.filter(({ kind }) => kind === 'trap')
  expect(traps.every(({ register, value, pc }) => register && /^0x[0-9a-f]+$/.test(value) && pc)).toBe(true)
  expect(traps[0]).toMatchObject({ register: 'IDR0', pc: '0xffff800080901234' })
  expect(objects.filter(({ kind }) => kind === 'hardware')[0]).toMatchObject({
    register: 'IDR0',
    value: '0xd44101b',
  })
  // 64 bits, of which halves alone would not tell.
  const base = traps.find(({ register, write }) => register === 'CMDQ_BASE' && write === 1)
  expect(BigInt(base.value)).toBe((BigInt(base.hi) << 32n) | BigInt(base.lo))
})

test('export: CSV, every line with as many fields as the first', async () => {
  const { out } = await run('trace', 'export', boot, '--csv')
  const rows = out.trimEnd().split('\r\n').map(fields)
  const width = rows[0]?.length
  expect(rows[0]?.slice(0, 5)).toEqual(['kind', 'start_ns', 'virtual_ns', 'duration_ns', 'seq'])
  expect(rows.every(row => row.length === width)).toBe(true)
  expect(rows.filter(([kind]) => kind === 'trap').length).toBe(91)
})

/** Of a line as RFC 4180 has it. */
function fields(line: string): string[] {
  return [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,"]*))/g)].map(([, quoted, plain]) => quoted ?? plain ?? '')
}

test('export: Perfetto', async () => {
  const path = join(files, 'perfetto.json')
  expect((await run('trace', 'export', boot, '--perfetto', '-o', path)).code).toBe(0)
  const { traceEvents } = JSON.parse(readFileSync(path, 'utf8')) as { traceEvents: { ph: string; cat: string }[] }
  // What is in it: perfetto.test.ts.
  expect(traceEvents.filter(({ ph, cat }) => (ph === 'B' || ph === 'i') && cat === 'trap').length).toBe(91)
})

test('replay: nothing, or what the prefix explains', async () => {
  const same = await run('replay', boot)
  expect(same.out).toMatch(/^91 traps replayed in .*, policy pkvm\nno difference\n$/)
  expect(same.code).toBe(0)
  const { code, out } = await run('replay', boot, '--until', 'strtab')
  expect(code).toBe(1)
  expect(out).toMatch(/^first difference:\nreset \(cold\)/m)
  expect(out).toMatch(/hardware W GBPA /)
  expect(out).not.toMatch(/host cmd/)
  const stop = await run('replay', boot, '--break', 'CFGI_STE')
  expect(stop.out).toMatch(/^stopped after:\n +#25 cpu0 W CMDQ_PROD/m)
  expect(stop.out).toMatch(/"sid": 8,/)
})

test('replay: --blocks and --bbm, where they say something', async () => {
  const { out } = await run('replay', boot, '--blocks', '--bbm', '0')
  expect(out).toMatch(/, policy pkvm blocks=true bbm=0\n/)
  expect(await run('replay', boot, '--bbm', '0')).toMatchObject({
    code: 2,
    err: 'smmu-cosim: --bbm: only with --blocks\n',
  })
  expect(await run('replay', boot, '--bbm', '0', '--bisect', 'a..b')).toMatchObject({
    code: 2,
    err: 'smmu-cosim: --bbm: only with --blocks\n',
  })
  const blocks = join(files, 'blocks')
  await bootRecording(blocks, { blocks: true })
  expect((await run('replay', blocks, '--bbm', '0')).out).toMatch(/, policy pkvm blocks=true bbm=0\n/)
})

test('replay: injected faults are told, because nobody injects them again', async () => {
  const faulty = join(files, 'faulty')
  await bootRecording(faulty, {}, (bench, ring) => {
    scriptedBoot(bench)
    ring.fault(0, 1, 0, 0, 0, 0)
    ring.fault(0, 1, 0, 0, 0, 0)
    bench.read(0x1f4)
  })
  const { out } = await run('replay', faulty)
  expect(out).toMatch(/^NOT replayed: 2 injected faults, first in #92 cpu0 R 0x1f4/m)
})

test('replay: the rules in the header are checked, and injected again', async () => {
  const faulty = join(files, 'rules')
  const rules = [{ name: 'never', where: { at: 'register', register: 'GBPA', access: 'read' }, what: { do: 'freeze' } }]
  await bootRecording(faulty, {}, undefined, { faults: { rules, seed: 1 } })
  const { code, out } = await run('replay', faulty)
  expect([code, out]).toEqual([
    0,
    expect.stringMatching(/^1 rule of fault injection injected again\nno difference\n$/m),
  ])
  await bootRecording(faulty, {}, undefined, { faults: { rules: [{ name: 'x', what: 5 }], seed: 1 } })
  expect(await run('replay', faulty)).toMatchObject({ code: 1, err: expect.stringMatching(/rules\[0\]/) })
})

test('bad input: one line that says what is wrong, and a code', async () => {
  const cut = join(files, 'cut')
  copyFileSync(boot, cut)
  truncateSync(cut, 6000)
  const shown = await run('trace', 'show', cut)
  expect(shown.code).toBe(1)
  expect(shown.err).toMatch(
    /^smmu-cosim: .*cut: byte 6000: the file is cut off in block [0-9]+, [0-9]+ of its [0-9]+ records are whole\n/,
  )
  expect(lines(shown.out).length).toBeGreaterThan(3)
  writeFileSync(cut, 'hello')
  const foreign = join(files, 'foreign.map')
  writeFileSync(foreign, 'ffff800080000000 T start_kernel\nffff800080001000 T panic\n')
  for (const [args, message] of [
    [['trace', 'show', cut], /this is no trace/],
    [['trace', 'show', join(files, 'none')], /none' is invalid for argument 'recording'. no such file/],
    [['trace', 'show', boot, '--register', 'CMDQ_BASS'], /no register "CMDQ_BASS": did you mean CMDQ_BASE\?/],
    [['trace', 'show', boot, '--command', 'CFGI_STF'], /no command "CFGI_STF": did you mean CFGI_STE\?/],
    [['trace', 'show', boot, '--time', '5..2'], /not a time/],
    [['trace', 'show', boot, '--kind', 'traps'], /no kind "traps"/],
    [['trace', 'show', boot, '--symbols'], /doesn't say which kernel image/],
    [['trace', 'show', boot, '--symbols', foreign], /PCs don't fit it at any offset/],
    [['trace', 'export', boot], /needs a format/],
    [['trace', 'export', boot, '--json', '--csv'], /cannot be used with/],
    [['trace', 'export', boot, '--json', '-o', join(files, 'no', 'where')], /its folder does not exist/],
    [['replay', boot, '--policy', 'nonsense'], /no policy "nonsense"/],
    [['replay', boot, '--break', 'nonsense'], /expected the number of a trap/],
  ] as const) {
    const { code, err, out } = await run(...args)
    expect(err).toMatch(message)
    expect(code).not.toBe(0)
    expect(out).toBe('')
  }
})

test('cut: a smaller recording that replays as far', async () => {
  const path = join(files, 'start.gz')
  expect((await run('trace', 'cut', boot, '--to', '40', '-o', path)).out).toMatch(/start.gz: [0-9,]+ bytes\n$/)
  const { code, out } = await run('replay', path)
  expect(out).toMatch(/^40 traps replayed in .*\nno difference\n$/)
  expect(code).toBe(0)
})

test('a reader that leaves early ends it quietly', async () => {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  const child = spawn('sh', ['-c', `"${process.execPath}" "${main}" trace export "${boot}" --json | head -n 1`])
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')])
  expect(JSON.parse(out)).toMatchObject({ kind: 'header' })
  expect(err).toBe('')
})

test('what a guest, QEMU or a file says cannot steer the terminal', async () => {
  const hostile = join(files, 'hostile')
  const sequence = '\x1b]0;owned\x07\x9b2J'
  const machine = { ...header.machine, qemu: `10.0${sequence}` }
  await recording(hostile, (_writer, pump) => pump.console(`guest ${sequence}`), {
    header: { machine, kernel: sequence, policy: sequence },
  })
  const readable = '\\u001b]0;owned\\u0007\\u009b2J'
  for (const args of [
    ['show'],
    ['stats'],
    ['export', '--json'],
    ['export', '--csv'],
    ['diff', boot],
    ['flame', '--kaslr', '0'],
  ]) {
    const [command = '', ...rest] = args
    const { out, err } = await run('trace', command, hostile, ...rest)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what it is about
    expect(out + err, command).not.toMatch(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/)
    if (command === 'show') expect(out).toContain(`guest ${readable}`)
    if (rest.includes('--json'))
      expect(JSON.parse(out.split('\n')[0] ?? '')).toMatchObject({ kernel: sequence, policy: sequence })
  }
})

describe('a recording is data', () => {
  const ran = join(files, 'ran')
  const policy = join(files, 'policy.ts')
  const own = join(files, 'own')
  beforeAll(async () => {
    const pkvm = fileURLToPath(new URL('../../../server/hypervisor/pkvm/policy.ts', import.meta.url))
    writeFileSync(
      policy,
      `import { writeFileSync } from 'node:fs'\nwriteFileSync(${JSON.stringify(ran)}, '')\nexport { default } from ${JSON.stringify(pkvm)}\n`,
    )
    const header = { policy, policyOptions: { until: 'cmdq', poolPages: 1e9 } }
    await bootRecording(own, { until: 'cmdq' }, undefined, header)
  })

  test('no file that it names is loaded', async () => {
    for (const args of [
      ['replay', own],
      ['trace', 'show', own],
      ['trace', 'stats', own],
    ])
      await run(...args)
    const { code, err } = await run('replay', own)
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/a policy of its own, ".*policy.ts": --policy FILE says which/),
    ])
    const { machine, problems, unknown } = await recordedMachine(own)
    expect(machine.trap).toBeGreaterThan(0)
    expect([problems, unknown]).toEqual([[], expect.stringContaining('--policy FILE says which')])
    expect(existsSync(ran)).toBe(false)
  })

  test('the file that the command line names is, with the options that it may have', async () => {
    const { out } = await run('replay', own, '--policy', policy)
    expect(out).toMatch(/traps replayed in .*, policy .*policy.ts until=cmdq\n/)
    expect(existsSync(ran)).toBe(true)
    expect(await recordedMachine(own, undefined, policy)).toMatchObject({ problems: [] })
    expect((await recordedMachine(own, undefined, policy)).unknown).toBeUndefined()
  })

  test('no image that it names is opened, unless set-up fetched it', async () => {
    const named = join(files, 'named')
    const pipe = join(files, 'pipe')
    execFileSync('mkfifo', [pipe])
    for (const image of [pipe, map, '/proc/self/environ', join(files, 'none')]) {
      await bootRecording(named, {}, undefined, { image })
      const { err } = await run('trace', 'show', named, '--symbols')
      expect(err).toContain(`the recording names the image ${image}, which is none of`)
    }
  })
})
