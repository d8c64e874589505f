// SPDX-License-Identifier: Apache-2.0
/** A hostile host against a policy, in a process beside the machine: what it has done and noticed, and what it found. */
import { useEffect, useState } from 'preact/hooks'
import type { AttackBody, AttackRunView, FoundView } from '../../../api/schemas/attack.ts'
import { call } from '../api.ts'
import { count, counted } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { subscribe } from '../live.ts'
import { Blocks, OF_PKVM, QuirkChoice } from '../machine.tsx'
import { info } from '../store.ts'
import { attempt, Button, Empty, Field, Load, Panel, Scroll, Skeleton, Tag } from '../ui.tsx'

const STATES = {
  none: ['plain', 'not started'],
  running: ['ok', 'running'],
  stopping: ['warn', 'stopping'],
  done: ['plain', 'ended'],
  failed: ['bad', 'failed'],
} as const

export function Attack() {
  const [run, setRun] = useState<AttackRunView>()
  const [chosen, setChosen] = useState<number>()
  useEffect(
    () =>
      subscribe(
        'attack',
        {
          items: items => setRun(items.at(-1)?.attack),
          restarted: () => setRun(undefined),
        },
        { last: 1, lag: 100 },
      ),
    [],
  )
  // Findings are numbered anew in each run.
  useEffect(() => setChosen(undefined), [run?.run])
  if (run === undefined) return <Skeleton rows={10} />
  return (
    <div class="view split attack-view">
      <div class="stack">
        <Run of={run} />
        <Findings of={run} chosen={chosen} choose={setChosen} />
      </div>
      <div class="stack">
        {run.state === 'running' || run.state === 'stopping' ? <Running of={run} /> : <Start />}
        {chosen === undefined ? <Coverage of={run} /> : <Steps key={`${run.run} ${chosen}`} n={chosen} />}
      </div>
    </div>
  )
}

const Figure = ({ name, value, bad }: { name: string; value: string; bad?: boolean }) => (
  <div class={bad ? 'bad' : ''}>
    <dt>{name}</dt>
    <dd>{value}</dd>
  </div>
)

function Run({ of: run }: { of: AttackRunView }) {
  const [tone, word] = STATES[run.state]
  const { options, seconds, operations, steps, programs, judged, corpus, lost } = run
  const quirks = options?.quirks ?? []
  return (
    <Panel title="Attack" side={<Tag tone={tone}>{word}</Tag>}>
      {options === null ? (
        <Empty title="No attack was started">
          A hostile host against a policy, in process and beside the machine, with an oracle that does not ask the
          hypervisor.
        </Empty>
      ) : (
        <>
          <p>
            {options.policy ?? 'pkvm'}{' '}
            {options.blocks && <Tag>in blocks{options.bbm !== undefined && `, BBM level ${options.bbm}`}</Tag>}{' '}
            {options.stage2 === 'shared' && (
              <Tag>EL2’s tables shared, {options.populate ?? 'mapped ahead or never'}</Tag>
            )}{' '}
            {quirks.length > 0 && <Tag tone="bad">with {quirks.join(', ')}</Tag>}{' '}
            <span class="muted">
              hardware {(options.hardware ?? []).join(', ') || 'as QEMU’s'}, seed {options.seed}
            </span>
          </p>
          {run.message !== null && (
            <p class="bad" role="alert">
              {run.message}
            </p>
          )}
          <dl class="tallies">
            <Figure name="seconds" value={seconds.toFixed(0)} />
            <Figure name="operations" value={count(operations)} />
            <Figure name="a second" value={count(Math.round(operations / Math.max(seconds, 0.001)))} />
            <Figure name="steps" value={count(steps)} />
            <Figure name="programs" value={count(programs)} />
            <Figure name="judged" value={count(judged)} bad={programs > 0 && judged === 0} />
            <Figure name="kept" value={count(corpus)} />
            <Figure name="findings" value={count(run.found)} bad={run.found > 0} />
            {lost > 0 && <Figure name="came once" value={count(lost)} bad />}
          </dl>
        </>
      )}
    </Panel>
  )
}

function Findings(props: { of: AttackRunView; chosen: number | undefined; choose: (n: number | undefined) => void }) {
  const { findings, found, programs } = props.of
  return (
    <Panel title="Findings" flush class="grow">
      {findings.length === 0 ? (
        <Empty title={programs === 0 ? 'Nothing was attacked yet' : 'Nothing was found'}>
          {programs > 0 && `In ${counted(programs, 'program')}.`}
        </Empty>
      ) : (
        <Scroll label="Findings">
          <table class="data findings">
            <thead>
              <tr>
                <th class="num">After</th>
                <th>Kind</th>
                <th>What</th>
              </tr>
            </thead>
            <tbody>
              {findings.map(finding => (
                <Finding
                  key={finding.n}
                  of={finding}
                  open={finding.n === props.chosen}
                  toggle={() => props.choose(finding.n === props.chosen ? undefined : finding.n)}
                />
              ))}
            </tbody>
          </table>
          {found > findings.length && <p class="hint">{count(found - findings.length)} before these.</p>}
        </Scroll>
      )}
    </Panel>
  )
}

const Finding = ({ of, open, toggle }: { of: FoundView; open: boolean; toggle: () => void }) => (
  <tr class={open ? 'hit' : ''}>
    <td class="num">{of.seconds.toFixed(1)} s</td>
    <td>
      <button type="button" aria-expanded={open} onClick={toggle}>
        {of.kind}
      </button>
    </td>
    <td>{of.message}</td>
  </tr>
)

function Steps({ n }: { n: number }) {
  const loaded = useLoaded(() => call('GET /attack/findings/:n', { params: { n } }), 0, [n])
  return (
    <Panel title={`Finding ${n}: steps`} flush class="grow">
      <Load from={loaded}>
        {({ lines }) => (
          <Scroll label="Steps">
            <pre class="steps">{lines.join('\n')}</pre>
          </Scroll>
        )}
      </Load>
    </Panel>
  )
}

function Coverage({ of: { coverage } }: { of: AttackRunView }) {
  const all = coverage.reduce((sum, { count }) => sum + count, 0)
  return (
    <Panel title="Noticed" flush class="grow" side={<b class="figure">{count(all)}</b>}>
      <table class="data">
        <tbody>
          {coverage.map(({ what, count: n }) => (
            <tr key={what}>
              <td>{what}</td>
              <td class="num">{count(n)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  )
}

function Running({ of: { state } }: { of: AttackRunView }) {
  return (
    <Panel title="Runs">
      <p class="hint">In a process of its own, at the lowest priority.</p>
      <Button
        tone="danger"
        disabled={state === 'stopping'}
        onClick={() => void attempt(() => call('POST /attack/stop'))}
      >
        Stop the attack
      </Button>
    </Panel>
  )
}

function Start() {
  const words = info.value
  const [policy, setPolicy] = useState('pkvm')
  const [seconds, setSeconds] = useState('60')
  const [seed, setSeed] = useState('')
  const [hardware, setHardware] = useState<ReadonlySet<string>>(new Set())
  const [quirks, setQuirks] = useState<readonly string[]>([])
  const [until, setUntil] = useState('nested')
  const [blocks, setBlocks] = useState(false)
  const [bbm, setBbm] = useState('')
  const [stage2, setStage2] = useState('own')
  const [populate, setPopulate] = useState('')
  const own = OF_PKVM.has(policy)
  // EL2 says what is in blocks, and the second stage is the whole series.
  const shared = own && stage2 === 'shared'
  const start = () => {
    const body = {
      policy,
      ...(own && !shared && { until }),
      ...(shared && { stage2, ...(populate !== '' && { populate }) }),
      ...(own && !shared && blocks && { blocks, ...(bbm !== '' && { bbm: Number(bbm) }) }),
      seconds: Number(seconds),
      hardware: [...hardware],
      ...(quirks.length > 0 && { quirks }),
      ...(seed !== '' && { seed: Number(seed) }),
    } as AttackBody
    void attempt(() => call('POST /attack', { body }))
  }
  return (
    <Panel title="Start an attack">
      <form
        class="form two"
        onSubmit={e => {
          e.preventDefault()
          start()
        }}
      >
        <Field label="Policy">
          <select value={policy} onChange={e => setPolicy(e.currentTarget.value)}>
            {(words?.policies ?? ['pkvm']).map(p => (
              <option key={p}>{p}</option>
            ))}
          </select>
        </Field>
        <Field label="Until" hint="prefix of the series">
          <select value={until} disabled={!own || shared} onChange={e => setUntil(e.currentTarget.value)}>
            {(words?.stages ?? ['nested']).map(s => (
              <option key={s}>{s}</option>
            ))}
          </select>
        </Field>
        <Field label="Seconds">
          <input type="number" min="1" max="86400" value={seconds} onInput={e => setSeconds(e.currentTarget.value)} />
        </Field>
        <Field label="Seed" hint="the same attack again; empty: by chance">
          <input type="number" min="0" max="4294967295" value={seed} onInput={e => setSeed(e.currentTarget.value)} />
        </Field>
        <Field label="Second stage" hint="shared: the tables that an EL2 keeps for its host">
          <select value={stage2} disabled={!own} onChange={e => setStage2(e.currentTarget.value)}>
            <option>own</option>
            <option>shared</option>
          </select>
        </Field>
        <Field label="Populate" hint="what EL2 has not mapped yet">
          <select value={populate} disabled={!shared} onChange={e => setPopulate(e.currentTarget.value)}>
            <option value="">either</option>
            {['ahead', 'never'].map(when => (
              <option key={when}>{when}</option>
            ))}
          </select>
        </Field>
        <Blocks possible={own && !shared} blocks={blocks} setBlocks={setBlocks} bbm={bbm} setBbm={setBbm} />
        <fieldset class="full checks">
          <legend>Hardware besides QEMU’s model</legend>
          {(words?.hardware ?? []).map(({ name, meaning }) => (
            <label class="check" key={name} title={meaning}>
              <input
                type="checkbox"
                checked={hardware.has(name)}
                onChange={e => {
                  const next = new Set(hardware)
                  if (e.currentTarget.checked) next.add(name)
                  else next.delete(name)
                  setHardware(next)
                }}
              />
              {name}
            </label>
          ))}
        </fieldset>
        <QuirkChoice policy={policy} change={setQuirks} />
        <div class="buttons full">
          <Button tone="primary" type="submit">
            Start the attack
          </Button>
        </div>
      </form>
    </Panel>
  )
}
