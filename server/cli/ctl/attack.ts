// SPDX-License-Identifier: Apache-2.0
/** Attacks on a policy, in a process beside the machine. */
import { Option } from 'commander'
import type { AttackBody, AttackRunView } from '../../api/schemas/attack.ts'
import { SERIES_STEPS } from '../../policy/policy.ts'
import { DEFAULTS } from '../../run/options.ts'
import { counted, grouped, tenths } from '../../trace/words.ts'
import {
  attackPopulateOption,
  attackPowerOption,
  attackStage2Option,
  bbmLevel,
  blocksOption,
  quirkOption,
} from '../bootOptions.ts'
import { whole } from '../numbers.ts'
import { checkQuirkNames } from '../policyCheck.ts'
import { type Add, plain } from './command.ts'

function runText(run: AttackRunView): string {
  const { state, seconds, operations, steps, programs, judged, coverage, corpus, lost, findings, found, message } = run
  if (state === 'none') return 'no attack was started'
  const { policy = 'pkvm', blocks = false, power, quirks = [], hardware = [], seed } = run.options ?? {}
  const { stage2, populate = 'mapped ahead or never' } = run.options ?? {}
  const switched = power === undefined ? '' : `, SMMUs switched off and on (${power})`
  const shared = stage2 === 'shared' ? `, EL2's tables shared (${populate})` : ''
  const more = `${blocks ? ' in blocks' : ''}${switched}${shared}`
  const rate = grouped(Math.round(operations / Math.max(seconds, 0.001)))
  const features = coverage.reduce((sum, { count }) => sum + count, 0)
  return [
    `${state}: ${[policy, ...quirks].join(' with ')}${more}, hardware ${hardware.join(',') || 'none'}, seed ${seed}`,
    ...(message === null ? [] : [message]),
    `${tenths(seconds)} s, ${counted(operations, 'operation')} (${rate}/s), ${counted(steps, 'step')}, ${counted(programs, 'program')}, ${grouped(judged)} judged`,
    `${counted(features, 'feature')}, ${counted(corpus, 'program')} kept`,
    ...coverage.map(({ what, count }) => `  ${grouped(count).padStart(7)} ${what}`),
    ...(lost === 0 ? [] : [`${counted(lost, 'finding')} did not come again on another machine`]),
    counted(found, 'finding'),
    ...findings.map(({ n, kind, message, seconds }) => `  ${n} ${tenths(seconds)} s ${kind}: ${message}`),
  ].join('\n')
}

export function attackCommands(add: Add): void {
  add('attack', 'the attack that runs, or ran last', plain, async client => {
    client.print(await client.call('GET /attack'), runText)
  })
  add<Omit<AttackBody, 'hardware'> & { readonly quirk?: readonly string[]; readonly hardware?: string }>(
    'attack-start',
    'start an attack on a policy, in a process of its own (smmu-cosim attack --help says more)',
    command =>
      command
        .option('--policy <name>', 'a policy, or own: the file given to serve')
        .addOption(new Option('--until <stage>', 'prefix of the series').choices(SERIES_STEPS))
        .addOption(blocksOption())
        .option('--bbm <level>', 'with --blocks: IDR3.BBML of all hardware (default: any)', bbmLevel)
        .addOption(attackPowerOption())
        .addOption(attackStage2Option())
        .addOption(attackPopulateOption())
        .addOption(quirkOption())
        .option('--hardware <list>', 'what hardware may be besides QEMU’s model, with commas')
        .option('--seconds <n>', 'end after so many', whole)
        .option('--seed <n>', 'the same attack again', whole)
        .option('--jobs <n>', 'threads', whole),
    async (client, { quirk = [], hardware, ...rest }) => {
      await checkQuirkNames(rest.policy ?? DEFAULTS.policy, quirk)
      // The server says what is no hardware.
      const list = hardware?.split(',') as AttackBody['hardware']
      const body = {
        ...rest,
        ...(quirk.length > 0 && { quirks: quirk }),
        ...(list !== undefined && { hardware: list }),
      }
      client.print(await client.call('POST /attack', { body }), runText)
    },
  )
  add('attack-stop', 'stop it', plain, async client => {
    client.print(await client.call('POST /attack/stop'), runText)
  })
  add('attack-finding <n>', 'the steps of a finding, and what decided each', plain, async (client, _options, [n]) => {
    client.print(
      await client.call('GET /attack/findings/:n', { params: { n: Number(n) } }),
      ({ kind, message, lines }) => [`${kind}: ${message}`, ...lines.map(line => `  ${line}`)].join('\n'),
    )
  })
}
