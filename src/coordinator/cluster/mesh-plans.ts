import { preparedDigest } from '../../data/index.ts';
import type { ResolvedModel } from '../../modules/index.ts';
import { compilePlan, type MeshShape, type Plan, PlanError } from '../../plan/index.ts';
import { modelDigest, type RemoteJob } from '../../worker/index.ts';
import { heldOptions } from '../held-names.ts';
import { jobsOf } from '../launch-threads.ts';
import type { PreparedRun } from '../prepare.ts';
import { type TensorNeed, tensorNeeds } from './tensor-needs.ts';

/** A plan for one mesh, and what each of its ranks needs. */
export interface MeshPlan {
  readonly mesh: MeshShape;
  readonly plan: Plan;
  /** By rank. */
  readonly needs: readonly (readonly TensorNeed[])[];
  /** By rank. */
  readonly jobs: readonly RemoteJob[];
}

/** Plans of a run for whatever mesh its workers can make: each is compiled once. */
export class MeshPlans {
  readonly #prepared: PreparedRun;
  readonly #runId: string;
  readonly #model: ResolvedModel;
  readonly #shared: Pick<RemoteJob, 'data' | 'tokenizer' | 'dataSha256' | 'modelSha256'>;
  readonly #known = new Map<string, MeshPlan | null>();

  private constructor(prepared: PreparedRun, runId: string, model: ResolvedModel, modelSha256: string | null) {
    this.#prepared = prepared;
    this.#runId = runId;
    this.#model = model;
    const { data, config } = prepared;
    this.#shared = {
      data: config.data,
      tokenizer: data.kind === 'text' ? JSON.stringify((data as { tokenizer?: unknown }).tokenizer) : null,
      dataSha256: preparedDigest(data),
      modelSha256,
    };
  }

  static async of(prepared: PreparedRun, runId: string, model: ResolvedModel): Promise<MeshPlans> {
    return new MeshPlans(prepared, runId, model, await modelDigest(model));
  }

  /** The config's own mesh. */
  get wanted(): MeshShape {
    return this.#prepared.plan.mesh;
  }

  /** The plan for a mesh; null if model, batch or schedule do not allow it. */
  plan(mesh: MeshShape): MeshPlan | null {
    const key = `${mesh.data} ${mesh.pipeline} ${mesh.expert}`;
    let known = this.#known.get(key);
    if (known === undefined) {
      known = this.#make(mesh);
      this.#known.set(key, known);
    }
    return known;
  }

  #make(mesh: MeshShape): MeshPlan | null {
    const { model } = this.#prepared;
    const plan = this.#compile(mesh);
    if (!plan) return null;
    const prepared = { ...this.#prepared, plan };
    const jobs = jobsOf(prepared, { runId: this.#runId, model: this.#model, checkpoint: null });
    return {
      mesh,
      plan,
      needs: tensorNeeds(model, heldOptions(prepared), plan),
      jobs: jobs.map(({ data: _, checkpoint: _none, progress: _progress, ...job }) => ({ ...job, ...this.#shared })),
    };
  }

  #compile(mesh: MeshShape): Plan | null {
    const { config, plan: own } = this.#prepared;
    const same = (['data', 'pipeline', 'expert'] as const).every((axis) => mesh[axis] === own.mesh[axis]);
    if (same) return own;
    // The number of replicas is part of the algorithm then, not of the mesh.
    if (this.#prepared.local) return null;
    const { parallel, batch, origin } = config;
    const stages = mesh.pipeline === own.mesh.pipeline ? parallel.stages : 'auto';
    // A table is for one number of microbatches a rank; any schedule gives the same bits.
    const schedule = typeof parallel.schedule === 'string' ? parallel.schedule : '1f1b';
    try {
      return compilePlan({
        summary: own.summary,
        parallel: { ...parallel, ...mesh, stages, schedule, zero: own.zero },
        batch,
        zero: own.zero,
        baseDir: origin.directory,
      });
    } catch (error) {
      if (error instanceof PlanError) return null;
      throw error;
    }
  }
}
