// SPDX-License-Identifier: Apache-2.0
/** What the command line does not understand, or cannot mean, is told from what failed by its exit code. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, linkSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { type AddressInfo, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test, vi } from 'vitest'
import { privateFolder } from '../../../server/machine/scratch.ts'
import { cosim } from '../../boot/cli.ts'
import { commands, parsed } from './parsed.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))

function run(...args: readonly string[]) {
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
  return { status, stderr }
}

test.each<[string, RegExp]>([
  ['nonsense', /unknown command/],
  ['boot --nonsense', /unknown option/],
  ['boot --smp 0', /expected a whole number from 1 to 64/],
  ['boot --storm 3', /--storm: only with --el2/],
  ['boot --kernel /none', /no such file/],
  ['boot --policy /none.ts', /does not exist/],
  ['boot --memory 1G --carveout 1G', /more than half/],
  ['boot --baseline --faults sync-hangs', /'--baseline' cannot be used with option '--faults/],
  ['boot --baseline --panic-on-warn', /'--baseline' cannot be used with option '--panic-on-warn'/],
  ['boot --baseline --policy passthrough', /'--baseline' cannot be used with option '--policy/],
  ['boot --baseline --transport socket', /'--baseline' cannot be used with option '--transport <how>'/],
  ['boot --baseline --record /tmp/x', /--record: needs the server of this run/],
  ['boot --baseline --server /none', /'--baseline' cannot be used with option '--server/],
  ['boot --server /none --panic-on-warn', /'--server.*' cannot be used with option '--panic-on-warn'/],
  ['boot --server /none --quirk x', /'--server.*' cannot be used with option '--quirk/],
  ['boot --exec ls --interactive', /'--exec.*' cannot be used with option '--interactive/],
  ['boot --exec ls --reboots 2', /'--exec.*' cannot be used with option '--reboots/],
  [
    'boot --kernel 6.12-16k --qemu-arg=-cpu --qemu-arg=cortex-a72',
    /pages are of 16 KiB, which -cpu cortex-a72 does not have/,
  ],
  ['boot --kernel 6.12-16k --el2 pkvm', /with --el2 pkvm they have to be of 4 KiB/],
  ['boot --exec ls --initrd package.json', /'--exec.*' cannot be used with option '--initrd/],
  ['boot --share /none', /'--share <folder>' argument '.none' is invalid. no such folder/],
  ['boot --share /none:rw', /'--share <folder>' argument '.none:rw' is invalid. no such folder/],
  ['boot --share package.json', /'--share <folder>' argument 'package.json' is invalid. no such folder/],
  ['boot --qemu server', /'--qemu <version|file>' argument 'server' is invalid. server: no source tree of QEMU/],
  ['boot --qemu package.json', /'--qemu <version|file>' argument 'package.json' is invalid. not executable/],
  ['boot --stage2 shared --el2 kernel', /--stage2 shared: only with --el2 pkvm/],
  ['boot --quirk x', /policy pkvm has no quirk "x": there are cmd-sync-msi, /],
  ['boot --policy passthrough --quirk eats', /policy passthrough has no quirk "eats"/],
  ['dev --quirk x', /policy pkvm has no quirk "x": there are cmd-sync-msi, /],
  ['dev --listen /none/x --quirk x', /policy pkvm has no quirk "x": there are cmd-sync-msi, /],
  ['attack --quirk nope', /^smmu-cosim: policy pkvm has no quirk "nope": there are cmd-sync-msi, /],
  [
    'ctl start --quirk queues-unshard',
    /^smmu-cosim: policy pkvm has no quirk "queues-unshard": did you mean queues-unshared\?/,
  ],
  ['ctl start --policy passthrough --quirk eats', /policy passthrough has no quirk "eats": it has none/],
  ['ctl attack-start --quirk nope', /^smmu-cosim: policy pkvm has no quirk "nope": there are cmd-sync-msi, /],
  [
    'dev --listen=',
    /'--listen <socket.host:port>' argument '' is invalid. expected the path of a Unix socket, or HOST:PORT/,
  ],
  [
    'dev --listen 127.0.0.1:99999',
    /'--listen <socket.host:port>' argument '127.*' is invalid. expected .* from 1 to 65535/,
  ],
  [
    'boot --server 127.0.0.1:0',
    /'--server <socket.host:port>' argument '127.*' is invalid. expected .* from 1 to 65535/,
  ],
  ['faults compare 1-3 3', /campaign 3 is on both sides/],
  ['matrix compare 3 3', /matrix 3 is on both sides/],
  ['boot --qemu 9.2', /'--qemu <version|file>' argument '9.2' is invalid. no such file/],
  ['boot --qemu-source /none', /'--qemu-source <dir>' argument '.none' is invalid. no such folder/],
  ['setup --qemu-source server', /'--qemu-source <dir>' argument 'server' is invalid. server: no source tree of QEMU/],
  ['test /none/x.test.ts', /'.none.x.test.ts' is invalid for argument 'file'. no such file/],
  ['test --seed -1', /'--seed <n>' argument '-1' is invalid/],
  ['test --jobs 0', /'--jobs <n>' argument '0' is invalid/],
  ['boot --interactive --reboots 2', /'--interactive' cannot be used with option '--reboots/],
  ['boot --faults no-such-fault', /no fault "no-such-fault" in the catalogue/],
  [
    'boot --firmware --smmus 2',
    /--firmware: not with --smmus 2, which QEMU 10.0 has no ACPI tables for: --qemu 10.2 has/,
  ],
  ['boot --report /tmp/x --record /tmp/x', /--record .tmp.x: --report is written to the same file/],
  ['matrix --junit /tmp/x --html /tmp/../tmp/x', /--html .tmp.*x: --junit is written to the same file/],
  ['faults run sync-hangs --junit /tmp/x --html /tmp/x', /--html .tmp.x: --junit is written to the same file/],
  ['boot --policy package.json/x.ts', /no such file|no policy|does not exist/],
  ['boot --kernel package.json/x', /no such file/],
  ['boot --token-file /none', /--token-file: only with a server that runs elsewhere/],
  ['boot --server /none --token-file /none', /--token-file .none: ENOENT/],
  ['dev --listen /none/x --ram-dir /none', /'--ram-dir <dir>' argument '.none' is invalid. no such folder/],
  ['serve --policy /none', /no such file/],
  ['serve --port x', /'--port <n>' argument 'x' is invalid. expected a whole number from 0 to 65535/],
  ['serve --port 65536', /'--port <n>' argument '65536' is invalid. expected a whole number from 0 to 65535/],
  ['boot --dashboard 65536', /expected a whole number from 0 to 65535/],
  ['worker --metrics 123456', /'--metrics.*' argument '123456' is invalid. expected a whole number from 0 to 65535/],
  ['queue list', /--queue is missing: where are the jobs/],
  ['queue purge x --queue redis://host', /expected a name as "queue list" has it, 20 hexadecimal digits/],
  ['worker --metrics :9100', /expected PORT, or HOST:PORT/],
  ['ctl gdb --port 65536', /expected a whole number from 1 to 65535/],
  ['trace show', /missing required argument/],
  ['walk --at 3 --sid 1 --iova 0', /is for a walk of a recording/],
  ['ctl --url x status', /not a URL/],
  ['ctl wait nowhere', /no phase nowhere/],
  ['faults run', /missing required argument/],
  ['attack --hardware x', /there is no "x"/],
  ['fuzz --only x', /there is no "x"/],
  ['bench --only x', /there is no "x"|is invalid/],
])('%s: 2', async (command, message) => {
  const words = command.split(' ')
  const { code, said } = await parsed(words)
  // What is wrong can be seen only by the command itself.
  const { status, stderr } = code === 0 ? run(...words) : { status: code, stderr: said }
  expect(stderr).toMatch(message)
  expect(status).toBe(2)
})

/** Each command that reads or writes a file that the command line names. */
test.each([
  'boot --initrd FILE',
  'boot --qemu FILE',
  'boot --report OUTPUT',
  'boot --record OUTPUT',
  'boot --ram-dir FOLDER',
  'serve --policy FILE',
  'serve --qemu FILE',
  'walk --sid 8 --iova 0 --recording FILE',
  'replay FILE',
  'trace show FILE',
  'trace show /dev/null --symbols FILE',
  'trace stats FILE',
  'trace diff FILE /dev/null',
  'trace diff /dev/null FILE',
  'trace export FILE',
  'trace export /dev/null --csv -o OUTPUT',
  'trace flame FILE',
  'trace flame /dev/null -o OUTPUT',
  'trace cut FILE --to 1 -o /tmp/x',
  'trace cut /dev/null --to 1 -o OUTPUT',
  'faults check FILE',
  'faults check README.md FILE',
  'faults run /tmp/FILE.yaml',
  'faults run no-such-fault',
  'faults show no-such-fault',
  'faults run sync-hangs --junit OUTPUT',
  'faults run sync-hangs --html OUTPUT',
  'faults salvage FILE /tmp/x',
  'faults salvage README.md OUTPUT',
  'faults report 1 --html OUTPUT',
  'faults report 1 --database FILE',
  'faults campaigns --database FILE',
  'faults compare 1 2 --database FILE',
  'matrix report 1 --database FILE',
  'matrix list --database FILE',
  'matrix compare 1 2 --database FILE',
  'attack --known FILE',
  'attack --replay FILE',
  'bench --json OUTPUT',
  'bench --results FILE',
  'ctl download OUTPUT',
  'ctl fault-arm /tmp/FILE.yaml',
])('what is not there is named, and nothing was done: %s', async command => {
  const words = { FILE: 'no-such-file', OUTPUT: '/no-such-folder/x', FOLDER: 'no-such-folder' }
  const { code, said } = await parsed(command.replace(/FILE|OUTPUT|FOLDER/, name => words[name as 'FILE']).split(' '))
  expect(said).toMatch(/no-such-/)
  expect(said).toMatch(/no such|does not exist|no fault/)
  expect(code).toBe(2)
})

describe('what is read is not written over', () => {
  const folder = privateFolder(tmpdir(), 'usage-')
  const recording = join(folder, 'recording.gz')
  const link = join(folder, 'link')
  const hard = join(folder, 'hard')
  const from = fileURLToPath(new URL('../trace/recordings/6.1-mmio.gz', import.meta.url))
  copyFileSync(from, recording)
  symlinkSync(recording, link)
  linkSync(recording, hard)
  afterAll(() => rmSync(folder, { recursive: true }))

  test.each<[string, RegExp]>([
    ['trace export FILE --csv -o FILE', /--output .*: recording is read from that file/],
    ['trace export FILE --csv -o LINK', /--output .*: recording is read from that file/],
    ['trace export HARD --json -o FILE', /--output .*: recording is read from that file/],
    ['trace export FILE --html -o FILE', /--output .*: recording is read from that file/],
    ['trace flame FILE -o FILE', /--output .*: recording is read from that file/],
    ['trace flame FILE --symbols README.md -o README.md', /--output .*: --symbols is read from that file/],
    ['trace cut FILE --to 1 -o FILE', /--output .*: recording is read from that file/],
    ['boot --report LINK --record FILE', /--record .*: --report is written to the same file/],
    ['boot --initrd FILE --report FILE', /--report .*: --initrd is read from that file/],
    ['boot --kernel FILE --record LINK', /--record .*: --kernel is read from that file/],
    ['faults report 1 --database FILE --junit FILE', /--junit .*: --database is read from that file/],
    ['faults run sync-hangs --database FILE --html FILE', /--html .*: --database is read from that file/],
    ['matrix report 1 --database FILE --html LINK', /--html .*: --database is read from that file/],
    ['matrix --database FILE --junit FILE', /--junit .*: --database is read from that file/],
  ])('%s', (line, message) => {
    const words = line.replace(/FILE|LINK|HARD/g, word => ({ FILE: recording, LINK: link, HARD: hard })[word] ?? '')
    const { status, stderr } = run(...words.split(' '))
    expect(stderr).toMatch(message)
    expect(status).toBe(2)
    expect(readFileSync(recording).equals(readFileSync(from))).toBe(true)
  })
})

/** /proc takes no files, not even root's. */
test.each([
  'boot --report OUTPUT',
  'boot --record OUTPUT',
  'dev --report OUTPUT',
  'faults run sync-hangs --junit OUTPUT',
  'faults campaign --html OUTPUT',
  'faults run sync-hangs --database OUTPUT',
  'faults report 1 --junit OUTPUT',
  'faults salvage README.md OUTPUT',
  'matrix --junit OUTPUT',
  'matrix --html OUTPUT',
  'matrix --database OUTPUT',
  'matrix report 1 --html OUTPUT',
  'matrix salvage README.md OUTPUT',
  'attack --corpus OUTPUT',
  'fuzz --save OUTPUT',
  'bench --json OUTPUT',
  'bench --results /proc/version',
  'test --junit OUTPUT',
  'trace cut README.md --to 1 -o OUTPUT',
  'trace export README.md --csv -o OUTPUT',
  'trace flame README.md -o OUTPUT',
  'ctl download OUTPUT',
])('what could not be written at the end is refused at the beginning: %s', async command => {
  for (const path of ['/proc/x', 'README.md/x']) {
    const { code, said } = await parsed(command.replace('OUTPUT', path).split(' '))
    expect(said).toMatch(/cannot be written: E|nothing can be written to \/proc: E|is no folder/)
    expect(code).toBe(2)
  }
})

test.each([
  ['x'.repeat(250), /ENAMETOOLONG/],
  ['', /this names a folder, expected a file/],
  ['none/', /this names a folder, expected a file/],
])('a name that no file can have: %s', async (name, message) => {
  expect(await parsed(['boot', '--report', name])).toMatchObject({ code: 2, said: expect.stringMatching(message) })
})

test.each([
  ['boot --report /'],
  ['test --junit /'],
  ['trace show /'],
  ['ctl download /'],
  ['faults run sync-hangs --database /'],
  ['matrix --database /'],
  ['matrix compare 1 2 --database /'],
])('a folder is no file: %s', async command => {
  const { code, said } = await parsed(command.split(' '))
  expect(said).toContain('this is a folder, expected a file')
  expect(code).toBe(2)
})

/** Each place for a number. */
test.each([
  'boot --bench x',
  'boot --reboots -1',
  'boot --timeout 1.5',
  'boot --seed 4294967296',
  'boot --dashboard 65536',
  'boot --reconnect x',
  'boot --storm -1',
  'boot --memory 1T1',
  'boot --record-limit x',
  'serve --port 65536',
  'serve --queue http://host',
  'worker --queue redis://host --metrics x',
  'worker --queue redis://host --metrics 65536',
  'walk --sid x --iova 0',
  'walk --sid 1 --iova x',
  'faults run sync-hangs --jobs 0',
  'faults run sync-hangs --seed x',
  'faults run sync-hangs --seed ,',
  'faults run sync-hangs --seed 1-3-5',
  'faults report x',
  'faults compare 1 x',
  'faults compare 1-,3 2',
  'matrix compare 3-1 4',
  'attack --seed -1',
  'attack --ops 0',
  'trace show /dev/null --sid x',
  'trace show /dev/null --limit x',
  'fuzz --seconds 0',
  'bench --pairs 0',
  'ctl trap x',
  'ctl stream x',
  'ctl unbreak x',
  'ctl enable x',
  'ctl memory x',
  'ctl table x',
  'ctl attack-finding x',
  'ctl traps --limit x',
])('what is no number, or none of those: %s', async command => {
  const { code, said } = await parsed(command.split(' '))
  expect(said).toMatch(/expected|a size|is invalid/)
  expect(code).toBe(2)
})

/** What stands for what an option needs besides. */
const WORDS: Readonly<Record<string, string>> = {
  ...{ recording: '/dev/null', a: '/dev/null', b: '/dev/null', damaged: 'README.md', new: join(tmpdir(), 'new') },
  ...{ shell: 'bash', phase: 'userspace', 'name|file': 'sync-hangs', 'file|name': 'sync-hangs', run: 'latest' },
  ...{
    '--sid': '1',
    '--iova': '0',
    '--base': '0',
    '--size': '4096',
    '--vm': '1',
    '--to': '1',
    '--queue': 'redis://host',
  },
  '--output': join(tmpdir(), 'new'),
}

const brackets = (flags: string): string => /[<[](.*)[>\]]/.exec(flags)?.[1] ?? ''

/** The options of every command whose value is called so, each with what its command needs besides. */
const optionsFor = (what: RegExp): { line: string; words: string[]; long: string }[] =>
  commands().flatMap(command => {
    const path = (of: typeof command): string[] => (of.parent === null ? [] : [...path(of.parent), of.name()])
    const args = command.registeredArguments.filter(({ required }) => required)
    const name = command.name() === 'check' ? 'README.md' : command.name() === 'show' && path(command)[0] === 'faults'
    const given = args.map(argument =>
      typeof name === 'string' ? name : name ? 'sync-hangs' : (WORDS[argument.name()] ?? '1'),
    )
    return command.options.flatMap(({ long, flags }) => {
      if (long === undefined || long === null || !what.test(brackets(flags))) return []
      const needed = command.options.filter(other => other.mandatory && other.long !== long)
      const words = [
        ...path(command),
        ...given,
        ...needed.flatMap(other => [other.long ?? '', WORDS[other.long ?? ''] ?? '1']),
      ]
      return [{ line: `${path(command).join(' ')} ${flags}`, words, long }]
    })
  })

async function accepted(options: ReturnType<typeof optionsFor>, values: readonly string[]): Promise<string[]> {
  const taken: string[] = []
  for (const { line, words, long } of options)
    for (const value of values) {
      const { code } = await parsed([...words, `${long}=${value}`])
      if (code !== 2) taken.push(`${line}: ${JSON.stringify(value)}`)
    }
  return taken
}

test('no option takes for a number what is none, or too large to be exact', async () => {
  const options = optionsFor(/^(n|s|ns|id|seq|trap|depth|level|shift|bits|bytes|size|port|address|number)$/)
  // Addresses of the network; and the API reads numbers of which it knows how many bits they may have.
  const numbers = options.filter(({ long }) => !/host$/.test(long))
  expect(numbers.length).toBeGreaterThan(80)
  expect(await accepted(numbers, ['', ' 1', 'x', '1e3', '1.5', '-1', '99999999999999999999'])).toEqual([])
})

test('an option with a whole number says so in the same words as all others', async () => {
  const own: string[] = []
  for (const { line, words, long } of optionsFor(/^(n|s|ns|id|depth|port|shift|bits)$/)) {
    const { said } = await parsed([...words, `${long}=x`])
    // One of few numbers is a choice, and they are named.
    if (!/expected a whole number|Allowed choices/.test(said)) own.push(`${line}: ${said}`)
  }
  expect(own).toEqual([])
})

test('no option takes for a file what has no name, or is in a file or in nothing', async () => {
  const paths = optionsFor(/file|dir|folder|case|recording/)
  // Of these, files are one of several things, which the command itself tells apart: the list at the top has them.
  const files = paths.filter(({ long }) => !/^--(policy|kernel|token-file)$/.test(long))
  expect(files.length).toBeGreaterThan(50)
  expect(await accepted(files, ['', 'package.json/x', 'package.json/x/y'])).toEqual([])
})

test('trace diff tells files that are no recordings from recordings that differ', () => {
  const { status, stderr } = run('trace', 'diff', '/dev/null', '/dev/null')
  expect(stderr).toBe('smmu-cosim: /dev/null: not a file\n')
  expect(status).toBe(2)
})

test('what the environment says of the transport is for runs that have one: --baseline has none, and is no mistake', () => {
  vi.stubEnv('SMMU_COSIM_TRANSPORT', 'socket')
  try {
    // Refused for another reason, behind that.
    const { status, stderr } = run('boot', '--baseline', '--record', '/tmp/x')
    expect(stderr).toMatch(/--record: needs the server/)
    expect(status).toBe(2)
  } finally {
    vi.unstubAllEnvs()
  }
})

test('--version', () => {
  const { status, stdout } = spawnSync(process.execPath, [MAIN, '--version'], { encoding: 'utf8' })
  expect(stdout).toMatch(/^\d+\.\d+\.\d+ \(protocol \d+, Node 26\.\S+\)\n$/)
  expect(status).toBe(0)
})

test.each([
  ['trace show /dev/null'],
  ['ctl --url http://127.0.0.1:1/ status'],
  // The server knows what its own policy shows.
  ['ctl --url http://127.0.0.1:1/ start --policy own --quirk x'],
])('what is understood and fails is 1: %s', command => expect(run(...command.split(' ')).status).toBe(1))

test.each([['--help'], ['boot --help']])('asking for help is no mistake: %s', command =>
  expect(run(...command.split(' ')).status).toBe(0),
)

test.each([
  ['serve', '--port', ' (0: any)'],
  ['boot', '--dashboard', ' (0: any)'],
  ['boot', '--gdb', ''],
])('%s, where somebody else listens: %s says where, and the message says so', async (command, option, hint) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const { code, stderr } = await cosim([command, option, String(port)])
  server.close()
  expect(stderr).toContain(`127.0.0.1:${port} is in use: choose another ${option}${hint}`)
  expect(code).toBe(1)
})
