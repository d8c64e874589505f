// SPDX-License-Identifier: Apache-2.0
/** The machine's life, console and counters. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Option } from 'commander'
import { enums } from '../../../protocol/messages.ts'
import type { GdbView, HeldView, MachineStatus, QmpCommand, StartOptions } from '../../api/schemas/lifecycle.ts'
import { PLUGGABLE_NAMES } from '../../machine/comingDevices.ts'
import type { DeviceName } from '../../machine/devices.ts'
import { POLICY_NAMES } from '../../policy/load.ts'
import { SERIES_STEPS } from '../../policy/policy.ts'
import { KERNELS } from '../../run/files.ts'
import { DEFAULTS } from '../../run/options.ts'
import { describeCommand } from '../../smmu/commands.ts'
import { eventName } from '../../smmu/events.ts'
import { describeRegister, registerName } from '../../smmu/registers.ts'
import { grouped } from '../../trace/words.ts'
import { bbmOption, blocksOption, carveout, deviceOption, quirkOption, size } from '../bootOptions.ts'
import { UsageError } from '../exit.ts'
import { whole, within } from '../numbers.ts'
import { faultNames } from '../paths.ts'
import { checkQuirkNames } from '../policyCheck.ts'
import { ConsolePrinter, print } from '../terminal.ts'
import { type Add, list, plain } from './command.ts'

/** Phases that can be waited for, in order. */
const WAITED = ['qemu', 'kernel', 'smmu', 'userspace', 'done']
const POLL_MS = 250

function statusText({ state, phase, step, options, kernel, held, notRecorded, stalled, end }: MachineStatus): string {
  const { policy = 'pkvm', until = 'nested', blocks = false, quirks = [] } = options ?? {}
  const lines = [
    `${state}${state === 'off' ? '' : `, ${phase}${step ? ` (${step})` : ''}, ${policy} ${until}${blocks ? ' in blocks' : ''}, ${kernel}`}`,
  ]
  if (quirks.length > 0) lines.push(`with known defects, not ${policy} as it is: ${quirks.join(', ')}`)
  if (stalled !== null) lines.push(stalled)
  if (notRecorded !== null) lines.push(`NOT RECORDED: ${notRecorded}`)
  if (held) lines.push(heldText(held))
  if (state === 'off' && end) lines.push(`last run: ${end.outcome}, ${end.message}`)
  return lines.join('\n')
}

/** Why it is held. */
function hitText({ breakpoint, command, warning, event, late }: HeldView['hit']): string {
  const what = [
    ...(command === undefined ? [] : [describeCommand(Uint32Array.from(command))]),
    ...(warning === undefined ? [] : [warning]),
    ...(event === undefined ? [] : [eventName(event)]),
  ]
  const who = breakpoint === 0 ? 'stopped by hand' : `breakpoint ${breakpoint}`
  return `${who}${what.length === 0 ? '' : ` (${what.join(', ')})`}${late ? ', after an event between traps' : ''}`
}

/** @param commands what a write of CMDQ_PROD hands over, a line each; absent: it is no such write, or nobody asked */
export function heldText({ hit, trap, where, callers }: HeldView, commands: readonly string[] = []): string {
  // What a read answers is known once it is decided.
  const known = trap.write || hit.phase === 'after'
  const value = `0x${((BigInt(trap.hi) << 32n) | BigInt(trap.lo)).toString(16)}`
  const fields = describeRegister(trap.offset, trap.lo, trap.hi)
  const decoded = !known ? '' : `: ${value}${fields === '' || fields === value ? '' : ` ${fields}`}`
  const what = `${trap.write ? 'write' : 'read'} of ${registerName(trap.offset)} (0x${trap.offset.toString(16)})${decoded}`
  const place = where === undefined ? '' : `, in ${where}`
  const head = `held: trap ${trap.seq}, ${what}${place}, ${hit.phase} the decision, ${hitText(hit)}`
  return [head, ...commands.map(line => `  ${line}`), ...callers.map(caller => `  called by ${caller}`)].join('\n')
}

const gdbText = ({ command, symbols }: GdbView): string =>
  symbols === null ? `${command}\nno symbols: it is not known yet where the kernel is; later, ask again` : command

export function lifecycleCommands(add: Add): void {
  add('status', 'what the machine is doing', plain, async client =>
    client.print(await client.call('GET /machine'), statusText),
  )
  add<StartOptions & { readonly quirk?: readonly string[]; readonly device: readonly DeviceName[] }>(
    'start',
    'start a machine',
    command =>
      command
        .option('--policy <name>', `${POLICY_NAMES.join(', ')}, or own: the file given to serve`)
        .addOption(new Option('--until <stage>', 'prefix of the series').choices(SERIES_STEPS))
        .addOption(new Option('--kernel <series>', 'Debian’s').choices(KERNELS))
        .option('--image <name>', 'a kernel in the folder given to serve --images')
        .option('--initrd <name>', 'an initramfs in that folder')
        .option('--no-nvme', 'without the NVMe controller')
        .addOption(
          new Option('--translate <mode>', 'who translates for devices').choices(Object.keys(enums.translateMode)),
        )
        .option(
          '--faults <name>',
          'a fault of the catalogue, armed from the first trap on; repeat for more',
          faultNames,
        )
        .option('--seed <n>', 'seed of everything random in faults', whole)
        .option('--memory <size>', 'guest RAM', size)
        .option('--carveout <size>', 'hypervisor memory', carveout)
        .addOption(
          new Option(
            '--el2 <what>',
            'pkvm: the guest runs as pKVM; its workload ends with attacks on a protected VM',
          ).choices(['none', 'pkvm']),
        )
        .option('--smp <n>', 'vCPUs', whole)
        .option('--smmus <n>', 'SMMUs, each in front of a root complex of its own', whole)
        .addOption(deviceOption())
        .option('--slots <n>', 'free root ports, for device add', whole)
        .addOption(new Option('--run <what>', 'a shell, or the workload').choices(['shell', 'workload']))
        .option('--bench <n>', 'timed reads of each disk', whole)
        .option('--append <text>', 'added to the kernel command line')
        .addOption(blocksOption())
        .addOption(bbmOption())
        .addOption(quirkOption())
        .option('--panic-on-warn', 'end at the first unexpected hyp warning')
        .option('--oracle', 'hold what devices reach against who owns the pages; end where they must not')
        .option('--break-first', 'hold the first trap'),
    async (client, { quirk = [], device, ...rest }) => {
      await checkQuirkNames(rest.policy ?? DEFAULTS.policy, quirk)
      const body = {
        ...rest,
        ...(quirk.length > 0 && { quirks: quirk }),
        ...(device.length > 0 && { devices: device }),
      }
      client.print(await client.call('POST /machine/start', { body }), statusText)
    },
  )
  add<{ readonly port?: number }>(
    'gdb',
    'let gdb attach to the guest, also while a trap is held; prints what to type',
    command => command.option('--port <n>', 'of the loopback interface, instead of a Unix socket', within(1, 65_535)),
    async (client, { port }) => {
      const body = port === undefined ? {} : { port }
      client.print(await client.call('POST /machine/gdb', { body }), gdbText)
    },
  )
  for (const [action, description] of [
    ['pause', 'stop the vCPUs'],
    ['resume', 'let the vCPUs run again'],
    ['reset', 'reset the machine'],
    ['power-off', 'press the power button'],
    ['kill', 'end QEMU now'],
  ] as const) {
    add(action, description, plain, async client =>
      client.print(await client.call(`POST /machine/${action}`), statusText),
    )
  }
  add(
    'device <what> [name]',
    `devices that come and go: list, add ${PLUGGABLE_NAMES.join('|')}, remove NAME`,
    plain,
    async (client, _options, [what, name]) => {
      if (what === 'list') {
        return client.print(await client.call('GET /machine/devices'), ({ devices }) =>
          list(devices, device => device.name),
        )
      }
      if (what === 'add') {
        const device = PLUGGABLE_NAMES.find(each => each === name)
        if (device === undefined) throw new UsageError(`device add: one of ${PLUGGABLE_NAMES.join(', ')}`)
        return client.print(await client.call('POST /machine/devices', { body: { device } }), plugged => plugged.name)
      }
      if (what !== 'remove' || name === undefined)
        throw new UsageError('device list, device add NAME or device remove NAME')
      await client.call('DELETE /machine/devices/:name', { params: { name } })
    },
  )
  add('qmp <command>', 'a QMP query', plain, async (client, _options, [command]) => {
    const answer = await client.call('POST /machine/qmp', { body: { command: command as QmpCommand } })
    client.print(answer, value => JSON.stringify(value.return, null, 2))
  })
  add<{ readonly timeout: number }>(
    'wait <phase>',
    'wait until the guest has come so far: kernel, smmu, userspace, done, off',
    command => command.option('--timeout <s>', 'give up after', whole, 120),
    async (client, { timeout }, [phase = '']) => {
      if (phase !== 'off' && !WAITED.includes(phase)) throw new UsageError(`no phase ${phase}`)
      const end = Date.now() + timeout * 1000
      for (;;) {
        const status = await client.call('GET /machine')
        const off = status.state === 'off'
        if (off === (phase === 'off') && (off || WAITED.indexOf(status.phase) >= WAITED.indexOf(phase))) {
          return client.print(status, statusText)
        }
        if (off && status.end) throw new Error(`the machine has ended: ${status.end.message}`)
        if (Date.now() > end) throw new Error(`still ${status.phase} after ${timeout} s`)
        await sleep(POLL_MS)
      }
    },
  )
  add('type <text>', 'type into the serial console, with a line end', plain, async (client, _options, [text]) => {
    await client.call('POST /machine/console', { body: { text: `${text}\n` } })
  })
  add<{ readonly follow?: true }>(
    'console',
    "the guest's console",
    command => command.option('--follow', 'go on with what comes'),
    async (client, { follow }) => {
      const printer = new ConsolePrinter()
      if (follow) {
        return client.stream('console', { last: 20_000 }, ({ text }) => printer.write(Buffer.from(text)))
      }
      client.print(await client.call('GET /machine/console'), ({ text }) => text)
    },
  )
  add('info', 'names that requests can use', plain, async client => {
    client.print(await client.call('GET /info'), ({ registers, warnings, quirks, hardware, ...rest }) =>
      [
        ...Object.entries(rest).map(
          ([name, value]) => `${name.padEnd(9)} ${typeof value === 'string' ? value : value.join(' ')}`,
        ),
        `registers ${registers.map(({ name }) => name).join(' ')}`,
        `warnings  ${warnings.map(({ code }) => code).join(' ')}`,
        'hardware',
        ...hardware.map(({ name, meaning }) => `  ${name.padEnd(10)} ${meaning}`),
        'quirks',
        ...quirks.map(({ policy, name, versions, effect }) => `  ${policy} ${name.padEnd(26)} ${versions}: ${effect}`),
      ].join('\n'),
    )
  })
  add('rates', 'traps a second, as far as they are kept', plain, async client => {
    client.print(await client.call('GET /machine/rates'), ({ points }) =>
      list(points, ({ at, run, rate }) => `${new Date(at).toISOString()}  run ${run}  ${grouped(Math.round(rate))}`),
    )
  })
  add('counters', 'everything that is counted', plain, async client => {
    client.print(await client.call('GET /counters'), counters => JSON.stringify(counters, null, 2))
  })
  add('metrics', 'Prometheus metrics', plain, async client => {
    print(await client.metrics())
  })
}
